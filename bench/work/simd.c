/* Packed arithmetic, checksums and ciphers: matrix product with SSE and with AVX2 and FMA, sum of absolute differences,
 * byte search, AES rounds, CRC-32C, SHA-256 rounds, carry-less multiplication. Each asks the processor first. Other
 * processors than x86-64 have the two that are written in vectors of the compiler's. */
#include "micro.h"

#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { N = 32 };
static float ma[N][N] __attribute__((aligned(64))), mb[N][N] __attribute__((aligned(64))),
    mc[N][N] __attribute__((aligned(64)));
static uint8_t bytes_a[4096] __attribute__((aligned(64))), bytes_b[4096] __attribute__((aligned(64)));

static void fill_matrices(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            ma[i][j] = (float)(i - j) * 0.25f;
            mb[i][j] = (float)(i * 3 + j) * 0.125f;
        }
}

static void fill_bytes(void)
{
    uint64_t s = 11;

    for (unsigned i = 0; i < sizeof bytes_a; i++) {
        bytes_a[i] = (uint8_t)mix(&s) | 1;
        bytes_b[i] = (uint8_t)mix(&s) | 1;
    }
}

typedef float vec4 __attribute__((vector_size(16)));
typedef uint8_t vec16 __attribute__((vector_size(16)));

/* A unit is one multiplication and addition of 32x32x32. */
static uint64_t sgemm_vec(uint64_t n)
{
    double sum = 0;

    fill_matrices();
    for (uint64_t done = 0; done < n; done += N * N * N) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 8) {
                vec4 s = {0}, t = {0}, b[2];

                for (int k = 0; k < N; k++) {
                    memcpy(b, &mb[k][j], sizeof b);
                    s += ma[i][k] * b[0];
                    t += ma[i][k] * b[1];
                }
                memcpy(&mc[i][j], &s, sizeof s);
                memcpy(&mc[i][j + 4], &t, sizeof t);
            }
        sum += (double)mc[done % N][5];
    }
    return (uint64_t)(int64_t)(sum * 16);
}

/* Sixteen byte lanes: compare, select, add. A unit is one byte. */
static uint64_t bytes_vec(uint64_t n)
{
    vec16 sum = {0}, x, y;
    uint64_t out[2];

    fill_bytes();
    for (uint64_t done = 0; done < n; done += sizeof bytes_a)
        for (unsigned i = 0; i < sizeof bytes_a; i += 16) {
            memcpy(&x, bytes_a + i, 16);
            memcpy(&y, bytes_b + ((i + done) & 4080), 16);
            sum += ((vec16)(x > y) & (x ^ sum)) + y;
        }
    memcpy(out, &sum, sizeof out);
    return out[0] ^ out[1];
}

#ifdef __x86_64__
static uint64_t sgemm_sse(uint64_t n)
{
    double sum = 0;

    fill_matrices();
    for (uint64_t done = 0; done < n; done += N * N * N) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 8) {
                __m128 s = _mm_setzero_ps(), t = _mm_setzero_ps();

                for (int k = 0; k < N; k++) {
                    __m128 x = _mm_set1_ps(ma[i][k]);

                    s = _mm_add_ps(s, _mm_mul_ps(x, _mm_load_ps(&mb[k][j])));
                    t = _mm_add_ps(t, _mm_mul_ps(x, _mm_load_ps(&mb[k][j + 4])));
                }
                _mm_store_ps(&mc[i][j], s);
                _mm_store_ps(&mc[i][j + 4], t);
            }
        sum += (double)mc[done % N][5];
    }
    return (uint64_t)(int64_t)(sum * 16);
}

__attribute__((target("avx2,fma"))) static uint64_t sgemm_avx2(uint64_t n)
{
    double sum = 0;

    fill_matrices();
    for (uint64_t done = 0; done < n; done += N * N * N) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 16) {
                __m256 s = _mm256_setzero_ps(), t = _mm256_setzero_ps();

                for (int k = 0; k < N; k++) {
                    __m256 x = _mm256_set1_ps(ma[i][k]);

                    s = _mm256_fmadd_ps(x, _mm256_load_ps(&mb[k][j]), s);
                    t = _mm256_fmadd_ps(x, _mm256_load_ps(&mb[k][j + 8]), t);
                }
                _mm256_store_ps(&mc[i][j], s);
                _mm256_store_ps(&mc[i][j + 8], t);
            }
        sum += (double)mc[done % N][5];
    }
    return (uint64_t)(int64_t)(sum * 16);
}

/* A unit is one byte compared. */
static uint64_t sad(uint64_t n)
{
    __m128i v = _mm_setzero_si128();

    fill_bytes();
    for (uint64_t done = 0; done < n; done += sizeof bytes_a)
        for (unsigned i = 0; i < sizeof bytes_a; i += 16)
            v = _mm_add_epi64(v, _mm_sad_epu8(_mm_load_si128((__m128i *)(bytes_a + i)),
                                              _mm_loadu_si128((__m128i *)(bytes_b + ((i + done + 5) & 4079)))));
    return (uint64_t)_mm_cvtsi128_si64(v) + (uint64_t)_mm_cvtsi128_si64(_mm_srli_si128(v, 8));
}

__attribute__((target("avx2"))) static uint64_t sad_avx2(uint64_t n)
{
    __m256i v = _mm256_setzero_si256();
    uint64_t out[4];

    fill_bytes();
    for (uint64_t done = 0; done < n; done += sizeof bytes_a)
        for (unsigned i = 0; i < sizeof bytes_a; i += 32)
            v = _mm256_add_epi64(v,
                                 _mm256_sad_epu8(_mm256_load_si256((__m256i *)(bytes_a + i)),
                                                 _mm256_loadu_si256((__m256i *)(bytes_b + ((i + done + 5) & 4063)))));
    memcpy(out, &v, sizeof out);
    return out[0] + out[1] + out[2] + out[3];
}

/* Integer lanes with shuffles: a unit is 16 bytes. */
__attribute__((target("ssse3"))) static uint64_t shuffle(uint64_t n)
{
    __m128i v = _mm_set_epi32(1, 2, 3, 4), k = _mm_set_epi8(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13);

    for (uint64_t i = 0; i < n; i++) {
        v = _mm_add_epi32(_mm_shuffle_epi8(v, k), k);
        v = _mm_xor_si128(v, _mm_slli_epi32(v, 5));
    }
    return (uint64_t)_mm_cvtsi128_si64(v);
}

/* A unit is one block through ten rounds, four blocks at a time. */
__attribute__((target("aes"))) static uint64_t aes(uint64_t n)
{
    __m128i key[11], x[4];

    for (int i = 0; i < 11; i++)
        key[i] = _mm_set_epi32(i * 7 + 1, i ^ 0x55, -i, 0x1234567 * i);
    for (int i = 0; i < 4; i++)
        x[i] = _mm_set1_epi32(i);
    for (uint64_t done = 0; done < n; done += 4) {
        for (int i = 0; i < 4; i++)
            x[i] = _mm_xor_si128(x[i], key[0]);
        for (int r = 1; r < 10; r++)
            for (int i = 0; i < 4; i++)
                x[i] = _mm_aesenc_si128(x[i], key[r]);
        for (int i = 0; i < 4; i++)
            x[i] = _mm_aesenclast_si128(x[i], key[10]);
    }
    return (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(_mm_xor_si128(x[0], x[1]), _mm_xor_si128(x[2], x[3])));
}

/* A unit is eight bytes of CRC-32C. */
__attribute__((target("sse4.2"))) static uint64_t crc32c(uint64_t n)
{
    uint64_t c = 0, left = n;

    fill_bytes();
    while (left)
        for (unsigned i = 0; i < sizeof bytes_a && left; i += 8, left--)
            c = _mm_crc32_u64(c, *(const uint64_t *)(const void *)(bytes_a + i));
    return c;
}

__attribute__((target("pclmul,sse4.1"))) static uint64_t clmul(uint64_t n)
{
    __m128i v = _mm_set_epi64x(0x123456789, 0xabcdef), k = _mm_set_epi64x(0x1c0ffee, 0x87);

    for (uint64_t i = 0; i < n; i++)
        v = _mm_xor_si128(_mm_clmulepi64_si128(v, k, 0x10), _mm_clmulepi64_si128(v, k, 0x01));
    return (uint64_t)_mm_cvtsi128_si64(v) ^ (uint64_t)_mm_extract_epi64(v, 1);
}

/* A unit is four rounds. */
__attribute__((target("sha,sse4.1"))) static uint64_t sha_ni(uint64_t n)
{
    __m128i a = _mm_set_epi32(1, 2, 3, 4), b = _mm_set_epi32(5, 6, 7, 8), m = _mm_set_epi32(9, 10, 11, 12);

    for (uint64_t i = 0; i < n; i++) {
        b = _mm_sha256rnds2_epu32(b, a, m);
        a = _mm_sha256rnds2_epu32(a, b, _mm_shuffle_epi32(m, 0x0e));
        m = _mm_sha256msg1_epu32(m, a);
    }
    return (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(a, b));
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_ssse3(void)
{
    return __builtin_cpu_supports("ssse3");
}
static int has_sse42(void)
{
    return __builtin_cpu_supports("sse4.2");
}
static int has_bits(unsigned leaf, unsigned b, unsigned c)
{
    unsigned reg[4] = {leaf, 0, 0, 0};

    __asm__("cpuid" : "+a"(reg[0]), "=b"(reg[1]), "+c"(reg[2]), "=d"(reg[3]));
    return (reg[1] & b) == b && (reg[2] & c) == c;
}
static int has_aes(void)
{
    return has_bits(1, 0, 1u << 25);
}
static int has_clmul(void)
{
    return has_bits(1, 0, 1u << 1);
}
static int has_sha(void)
{
    return has_bits(7, 1u << 29, 0);
}

#endif /* x86-64 */

const struct work works_simd[] = {{"sgemm_vec", "simd", sgemm_vec, N *N *N, N *N *N, NULL},
                                  {"bytes_vec", "simd", bytes_vec, 4096, 40960, NULL},
#ifdef __x86_64__
                                  {"sgemm_sse", "simd", sgemm_sse, N *N *N, N *N *N, NULL},
                                  {"sgemm_avx2", "simd", sgemm_avx2, N *N *N, N *N *N, has_avx2},
                                  {"sad_sse", "simd", sad, 4096, 40960, NULL},
                                  {"sad_avx2", "simd", sad_avx2, 4096, 40960, has_avx2},
                                  {"shuffle", "simd", shuffle, 1, 10000, has_ssse3},
                                  {"aes", "simd", aes, 4, 1000, has_aes},
                                  {"crc32c", "simd", crc32c, 1, 10000, has_sse42},
                                  {"clmul", "simd", clmul, 1, 10000, has_clmul},
                                  {"sha_ni", "simd", sha_ni, 1, 10000, has_sha},
#endif
                                  {NULL, NULL, NULL, 0, 0, NULL}};
