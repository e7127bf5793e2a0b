// What the kernels share: which weights there are, what may be added to them, and how a warp takes them in.
//
// Macros, beside those of primitives.cuh: BANDS, of 16 rows, that a warp works on at a time.

#include "primitives.cuh"

constexpr int ROWS = 16 * BANDS;  // of a step; a product has 16 rows
constexpr int PRODUCTS = 4, COLUMNS = 8 * PRODUCTS;
constexpr int CHUNK = 32;  // of the rank
constexpr int WARPS = 4, THREADS = 32 * WARPS, STRIP_WIDTH = WARPS * COLUMNS;

struct Part {
    Bits *weight;
    const Bits *base;
    Byte *codes;
    const Bits *up, *down;
    int height, width, first_chunk, chunks, first_piece, pieces;
};

enum Kind { LOW_RANK, HADAMARD, KRONECKER, FULL, WIDE, GAINS, ROTATION };

// `left` and `right` are chunks of the factors from `first_chunk` on, first `chunks` and then `other_chunks`, or matrices:
// those of a Kronecker product, `right` being [height, width] and `left` having `left_width` columns; the delta as
// it is; gains for each row and each column, of which `shift` is taken away; or what is multiplied by blocks of `height`
// rows of the pristine weight, twice `chunks` chunks, as those of `up`.
struct Piece {
    const void *left, *right;
    int kind, first_chunk, chunks, other_chunks, left_width, height, width;
    float shift;
};

// Rows and columns of a part that a block works on; its `number` among all strips of all parts.
struct Strip {
    int part, row, column, number;
};

// A lane has eight neighbours in each half of a band: those of row g, or g + 8, in the columns from 8t on. The sum for
// column 8t + i of them is that of product i % 4, and of its neighbour i / 4.
typedef uint4 Weights[BANDS][2];
typedef float Sums[BANDS][PRODUCTS][2][2];

INLINE Pair pair_of(const uint4 &eight, int i) {
    return i == 0 ? eight.x : i == 1 ? eight.y : i == 2 ? eight.z : eight.w;
}

INLINE Bits bits_of(const uint4 &eight, int i) {
    return pair_of(eight, i / 2) >> i % 2 * 16 & 0xFFFF;
}

INLINE float number_of(const uint4 &eight, int i) {
    return widened(bits_of(eight, i));
}

INLINE float &sum_of(Sums &sums, int band, int half, int i) {
    return sums[band][i % 4][half][i / 4];
}

// Eight neighbours of a row, of which `inside` are there.
INLINE uint4 load_eight(const Bits *from, int inside) {
#if ALIGNED
    return inside > 0 ? load_once(from) : make_uint4(0, 0, 0, 0);
#else
    Bits bits[8];
#pragma unroll
    for (int i = 0; i < 8; i++) bits[i] = i < inside ? from[i] : 0;
    return make_uint4(paired(bits[0], bits[1]), paired(bits[2], bits[3]), paired(bits[4], bits[5]),
                      paired(bits[6], bits[7]));
#endif
}

INLINE void store_eight(Bits *to, const uint4 &eight, int inside) {
#if ALIGNED
    if (inside > 0) store_once(to, eight);
#else
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < inside) to[i] = pair_of(eight, i / 2) >> (i % 2 * 16);
#endif
}

typedef Pair Left[BANDS][4][2];
typedef Pair Right[PRODUCTS][4];

// The rows from `from` on of a chunk of `up`, and the columns from `from` on of a chunk of `down`.
INLINE void load_left(Left &left, const Bits *up, int rows, int from, int chunk) {
    const unsigned height = (rows + 31) / 32 * 32;
    up += (chunk * height + from) * CHUNK + threadIdx.x % 32 * 8;
#pragma unroll
    for (int band = 0; band < BANDS; band++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4 eight = load_factor(up + (16 * band + i / 2 * 8) * CHUNK);
            left[band][i][0] = pair_of(eight, i % 2 * 2);
            left[band][i][1] = pair_of(eight, i % 2 * 2 + 1);
        }
}

INLINE void load_right(Right &right, const Part &part, int from, int chunk) {
    const unsigned width = (part.width + COLUMNS - 1) / COLUMNS * COLUMNS;
    const Bits *down = part.down + (chunk * width + from) * CHUNK + threadIdx.x % 32 * 8;
#pragma unroll
    for (int j = 0; j < PRODUCTS; j++) {
        const uint4 eight = load_factor(down + 8 * j * CHUNK);
#pragma unroll
        for (int i = 0; i < 4; i++) right[j][i] = pair_of(eight, i);
    }
}

// As `load_right`, of the pristine weight's rows from `row` on.
INLINE void load_rows(Right &right, const Part &part, int row, int from) {
    const int column = from + threadIdx.x % 32 / 4 * 4, inside = part.width - column;
    uint2 fours[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const unsigned below = row + threadIdx.x % 4 * 8 + k;
        const Bits *four = part.base + below * part.width + column;
        const int there = below < part.height ? inside : 0;
#if ALIGNED
        fours[k] = there > 0 ? __ldg(reinterpret_cast<const uint2 *>(four)) : make_uint2(0, 0);
#else
        Bits bits[4];
#pragma unroll
        for (int j = 0; j < 4; j++) bits[j] = j < there ? four[j] : 0;
        fours[k] = make_uint2(paired(bits[0], bits[1]), paired(bits[2], bits[3]));
#endif
    }
#pragma unroll
    for (int j = 0; j < PRODUCTS; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint2 upper = fours[2 * i], lower = fours[2 * i + 1];
            right[j][i] = __byte_perm(j < 2 ? upper.x : upper.y, j < 2 ? lower.x : lower.y, j % 2 ? 0x7632 : 0x5410);
        }
}

INLINE void load_floats(float (&values)[8], const float *from, int inside) {
    if (ALIGNED) return load_factors(values, from);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = i < inside ? __ldg(from + i) : 0.0f;
}

// What the gains of a piece are less its shift, for eight neighbours.
INLINE void load_gains(float (&values)[8], const Piece &piece, int row, int column, int inside) {
    load_floats(values, static_cast<const float *>(piece.right) + column, inside);
    const float gain = __ldg(static_cast<const float *>(piece.left) + row);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = gain * values[i] - piece.shift;
}

// Eight neighbours of a delta that needs neither a product of matrices nor the weight; `place` is theirs in the weight.
INLINE void load_delta(float (&values)[8], const Piece &piece, int row, int column, unsigned place, int inside) {
    const float *left = static_cast<const float *>(piece.left), *right = static_cast<const float *>(piece.right);
    if (piece.kind == KRONECKER) {
        const float *left_row = left + row / piece.height * piece.left_width;
        const float *right_row = right + row % piece.height * piece.width;
        int left_column = column / piece.width, right_column = column % piece.width;
        if (piece.width % 8 == 0) {
            load_factors(values, right_row + right_column);
            const float factor = __ldg(left_row + left_column);
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] *= factor;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                values[i] = i < inside ? __ldg(left_row + left_column) * __ldg(right_row + right_column) : 0.0f;
                if (++right_column == piece.width) right_column = 0, left_column++;
            }
        }
    } else if (piece.kind == FULL) {
        const uint4 eight = load_eight(static_cast<const Bits *>(piece.left) + place, inside);
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = number_of(eight, i);
    } else {
        load_floats(values, left + place, inside);
    }
}
