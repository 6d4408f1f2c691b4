/* Floating point through the C library, exceptions and rounding modes included. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void show(const char *what, double v)
{
    printf("%s %a %x\n", what, v, (unsigned)fetestexcept(FE_ALL_EXCEPT));
    feclearexcept(FE_ALL_EXCEPT);
}

int main(void)
{
    static const int mode[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    volatile double a = 1, b = 3, z = 0, big = 1e300;
    volatile float f = 16777217.0f, g = 0.1f;

    for (unsigned i = 0; i < 4; i++) {
        fesetround(mode[i]);
        show("1/3", a / b);
        show("-1/3", -a / b);
        show("float", g * f);
        show("rint", rint(2.5));
        show("lrint", (double)lrint(-2.5));
    }
    fesetround(FE_TONEAREST);
    show("1/0", a / z);
    show("0/0", z / z);
    show("over", big * big);
    show("under", 1e-300 / big);
    show("sqrt", sqrt(-a));
    show("fmin", fmin(NAN, a));
    show("fma", fma(a, b, -3));
    show("lround", (double)lround(2.5));
    printf("%d %u %ld %.17g\n", (int)(float)2e9, (unsigned)3.9, (long)-1e18, strtod("0.1", NULL));
    for (double x = 0.1; x < 3; x += 0.7)
        printf("%.17g %.17g %.17g %.9g\n", sin(x), exp(x), log(x), (double)powf((float)x, 1.5f));
    return 0;
}
