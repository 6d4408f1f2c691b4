/* Floating point: rounding, exceptions, conversions, long double, vectors, denormals, NaNs. */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t bits(double d)
{
    uint64_t u;

    memcpy(&u, &d, 8);
    return u;
}
int main(void)
{
    static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    volatile double a = 1.0, b = 3.0, tiny = 4.9e-324, huge = 1.7e308, z = 0, q;
    volatile float f = 16777217.0f;
    volatile long double l = 1;

    for (int i = 0; i < 4; i++) {
        fesetround(modes[i]);
        printf("%016llx %016llx %lld\n", (unsigned long long)bits(a / b), (unsigned long long)bits(-a / b),
               (long long)llrint(2.5));
    }
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    q = a / z;
    printf("div by zero %d", !!fetestexcept(FE_DIVBYZERO));
    q = huge * 10;
    printf(" overflow %d", !!fetestexcept(FE_OVERFLOW));
    q = tiny / 3;
    printf(" underflow %d", !!fetestexcept(FE_UNDERFLOW));
    q = sqrt(-a);
    printf(" invalid %d\n", !!fetestexcept(FE_INVALID));
    printf("%g %d %g\n", q != q ? 1.0 : 0.0, (int)f, tiny);
    for (int i = 1; i < 30; i++)
        l = l / 3 + i;
    printf("%.15Lg %.17g %.17g %.17g\n", l, sin(1e6), exp(1.5), pow(2.5, 3.7));
    printf("%.17g %.17g\n", fma(a, b, 1e-20), (double)(float)(a / b));
    return 0;
}
