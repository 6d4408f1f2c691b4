/* a64dis SEED COUNT FILE: writes COUNT words to FILE (half of them random, half made from rows of insn.def) and prints
 * each with our disassembly, for a comparison with another disassembler (tests/tools/test_a64_decode.py). */
#include "guest/arm64/insn.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    uint64_t r;
    unsigned long n;
    FILE *f;

    if (argc != 4 || !(f = fopen(argv[3], "wb")))
        return 2;
    r = strtoul(argv[1], NULL, 0) * 2 + 1;
    n = strtoul(argv[2], NULL, 0);
    for (unsigned long i = 0; i < n; i++) {
        uint32_t mask, value, w;
        uint8_t b[4];
        char text[160];

        r = r * UINT64_C(6364136223846793005) + 1442695040888963407;
        w = (uint32_t)(r >> 32);
        if (i & 1) {
            a64_row_bits((int)(i / 2 % A64_NR_ROW), &mask, &value);
            w = value | (w & ~mask);
        }
        put_le32(b, w);
        fwrite(b, 4, 1, f);
        printf("%08x %s\n", w, a64_format(w, i * 4, text, sizeof text));
    }
    return fclose(f) ? 2 : 0;
}
