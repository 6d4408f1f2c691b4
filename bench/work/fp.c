/* Scalar floating point in double (SSE2) and in the x87 unit: planets, the Mandelbrot set, matrix product, a spectral
 * sum; long double arithmetic, square roots and transcendentals. */
#include "micro.h"

#include <math.h>
#include <string.h>

static uint64_t bits(double d)
{
    uint64_t v;

    memcpy(&v, &d, sizeof v);
    return v;
}

/* Five bodies that attract each other; a unit is one step. */
static uint64_t nbody(uint64_t n)
{
    enum { N = 5 };
    struct {
        double x[3], v[3], m;
    } b[N];
    double energy = 0;

    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 3; k++) {
            b[i].x[k] = i * 1.7 + k * 0.31 * (i & 1 ? -1 : 1);
            b[i].v[k] = (k + 1) * 0.013 * (i - 2);
        }
        b[i].m = 1.0 / (i + 1);
    }
    for (uint64_t s = 0; s < n; s++) {
        for (int i = 0; i < N; i++)
            for (int j = i + 1; j < N; j++) {
                double d[3], r2 = 0.01, f;

                for (int k = 0; k < 3; k++) {
                    d[k] = b[i].x[k] - b[j].x[k];
                    r2 += d[k] * d[k];
                }
                f = 0.001 / (r2 * __builtin_sqrt(r2));
                for (int k = 0; k < 3; k++) {
                    b[i].v[k] -= d[k] * b[j].m * f;
                    b[j].v[k] += d[k] * b[i].m * f;
                }
            }
        for (int i = 0; i < N; i++)
            for (int k = 0; k < 3; k++)
                b[i].x[k] += 0.001 * b[i].v[k];
    }
    for (int i = 0; i < N; i++)
        energy += b[i].x[0] * b[i].v[1] + b[i].x[2];
    return bits(energy);
}

/* A unit is one iteration of z*z+c. */
static uint64_t mandel(uint64_t n)
{
    uint64_t done = 0, inside = 0;
    unsigned at = 0;

    while (done < n) {
        double cr = -2.0 + 2.5 * (at % 61) / 61, ci = -1.2 + 2.4 * (at % 59) / 59, x = 0, y = 0;
        unsigned i = 0;

        for (; i < 200 && x * x + y * y < 4; i++) {
            double t = x * x - y * y + cr;

            y = 2 * x * y + ci;
            x = t;
        }
        inside += i == 200;
        done += i + 1;
        at++;
    }
    return inside;
}

/* A unit is one multiplication and addition of a 24x24 product; not vectorised. */
__attribute__((optimize("no-tree-vectorize"))) static uint64_t matmul(uint64_t n)
{
    enum { N = 24 };
    static double a[N][N], b[N][N], c[N][N];
    double sum = 0;

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i - j * 0.5;
            b[i][j] = 1.0 / (i + j + 1);
        }
    for (uint64_t done = 0; done < n; done += N * N * N) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = 0;

                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
        a[done / 7 % N][3] += 0.001;
        sum += c[5][done % N];
    }
    return bits(sum);
}

/* float: conversions, comparisons and a reciprocal. */
static uint64_t convert(uint64_t n)
{
    float f = 1.5f;
    int32_t k = 7;
    uint64_t v = 0;

    for (uint64_t i = 0; i < n; i++) {
        f = f * 1.01f + (float)k;
        if (f > 1e6f)
            f = 1.0f / f;
        k = (int32_t)(f * 3) & 0xff;
        v += (uint64_t)k;
    }
    return v;
}

static uint64_t x87_poly(uint64_t n)
{
    long double x = 0.3L, v = 0;

    for (uint64_t i = 0; i < n; i++) {
        v = ((v * x + 1.25L) * x - 0.5L) * x + 0.125L;
        x = x * 0.999L + 0.0007L;
        if (x > 0.9L)
            x -= 0.6L;
    }
    return bits((double)v);
}

static uint64_t x87_div(uint64_t n)
{
    long double x = 1.1L, v = 1;

    for (uint64_t i = 0; i < n; i++) {
        v = __builtin_sqrtl(v + x) / (x + 0.1L);
        x += 0.001L;
        if (x > 50)
            x = 1.1L;
    }
    return bits((double)v);
}

static uint64_t x87_sum(uint64_t n)
{
    static long double a[64];
    long double s = 0;

    for (int i = 0; i < 64; i++)
        a[i] = i * 0.37L - 3;
    for (uint64_t i = 0; i < n; i++) {
        s += a[i & 63] * a[(i + 9) & 63];
        if (!(i & 0xfff))
            s *= 0.001L;
    }
    return bits((double)s);
}

const struct work works_fp[] = {{"nbody", "fp", nbody, 1, 1000, NULL},
                                {"mandel", "fp", mandel, 201, 10000, NULL},
                                {"matmul", "fp", matmul, 24 * 24 * 24, 24 * 24 * 24, NULL},
                                {"convert", "fp", convert, 1, 10000, NULL},
                                {"x87_poly", "x87", x87_poly, 1, 10000, NULL},
                                {"x87_div", "x87", x87_div, 1, 1000, NULL},
                                {"x87_sum", "x87", x87_sum, 1, 10000, NULL},
                                {NULL, NULL, NULL, 0, 0, NULL}};
