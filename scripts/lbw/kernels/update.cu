// The in-place update: one launch for all layers of a switch, and one pass over each weight.
//
// What bounds it is memory: each weight's pristine value is read once and the weight is written once. A block works
// down a strip of a weight, each of its warps on 32 columns, 32 rows at a time, with the weights of the next steps on
// their way. No warp waits for another: the factors come from the cache to the registers in the order in which the
// tensor cores take them, and each warp has brought a share of them there one step before.
//
// Macros, beside those of primitives.cuh: ONE_EACH, all deltas of a weight have one coefficient. LEAN, the pristine
// value is recovered from the patched one, see lbw/lean.py. PIECES, deltas are of any kind of lbw/pieces.py, and each
// piece has a coefficient; else they are low-rank, and each chunk of them has. STEPS, of a strip. BLOCKS_AT_ONCE, on a
// multiprocessor.

#include "primitives.cuh"

constexpr int BANDS = 2, ROWS = 16 * BANDS;  // of a step; a product has 16 rows
constexpr int PRODUCTS = 4, COLUMNS = 8 * PRODUCTS;
constexpr int CHUNK = 32;  // of the rank
constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int AHEAD = 3;  // steps of which the weights are on their way to the cache

struct Part {
    Bits *weight;
    const Bits *base;
    const Byte *codes;
    const unsigned *escapes;
    const Bits *up, *down;
    int height, width, first_chunk, chunks, first_piece, pieces;
};

enum Kind { LOW_RANK, HADAMARD, KRONECKER, FULL, WIDE, GAINS };

// `left` and `right` are chunks of the factors from `first_chunk` on, first `chunks` and then `other_chunks`, or matrices:
// those of a Kronecker product, `right` being [height, width] and `left` having `left_width` columns; the delta as
// it is; or gains for each row and each column, of which `shift` is taken away.
struct Piece {
    const void *left, *right;
    int kind, first_chunk, chunks, other_chunks, left_width, height, width;
    float shift;
};

struct Strip {
    int part, row, column, unused;
};

// A lane has eight neighbours in each half of a band: those of row g, or g + 8, in the columns from 8t on. The sum for
// column 8t + i of them is that of product i % 4, and of its neighbour i / 4.
typedef uint4 Weights[BANDS][2];
typedef float Sums[BANDS][PRODUCTS][2][2];

INLINE Pair pair_of(const uint4 &eight, int i) {
    return i == 0 ? eight.x : i == 1 ? eight.y : i == 2 ? eight.z : eight.w;
}

INLINE float number_of(const uint4 &eight, int i) {
    return widened(pair_of(eight, i / 2) >> i % 2 * 16 & 0xFFFF);
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

// Pair i of a lane's eight weights with their sums, by a factor, added to them, in one rounding.
INLINE Pair added(Pair weights, const Sums &sums, int band, int half, int i, float factor) {
    return rounded(widened(weights & 0xFFFF) + factor * sums[band][i % 2 * 2][half][i / 2],
                   widened(weights >> 16) + factor * sums[band][i % 2 * 2 + 1][half][i / 2]);
}

// The codes of two of eight neighbours, each in the low byte of a half: two bits for each step of the strip.
INLINE Pair codes_of(const uint2 &eight, int i) {
    return __byte_perm(i < 2 ? eight.x : eight.y, 0, i % 2 ? 0x4342 : 0x4140);
}

// What stands where there is no escape.
constexpr Pair NO_ESCAPES = 0xFFFFFFFF;

// The pristine values of two weights. `near` are the patched ones without the delta in force; of each half of `codes`
// the lowest two bits count.
INLINE Pair recovered(Pair near, Pair codes, Pair escapes) {
    const Pair others = ~escapes, has_bits = (others & 0x7FFF7FFF) + 0x7FFF7FFF | others;
    const Pair is_escape = (has_bits >> 15 & 0x00010001) * 0xFFFF;
    const Pair magnitude = near & 0x7FFF7FFF & ~is_escape;
    const Pair step = codes + 0x00050005 - (magnitude & 0x00030003) & 0x00030003;  // 0 is one down, 2 is one up
    const Pair found = (magnitude + step + 0x7FFF7FFF & 0x7FFF7FFF) | (near & 0x80008000);
    return (escapes & is_escape) | (found & ~is_escape);
}

// The lean way needs `in_force`, the coefficients of what is in the weights, and `first_escapes` of each strip.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
update(const Strip *__restrict__ strips, const Part *__restrict__ parts, const float *__restrict__ coefficients,
       const float *__restrict__ in_force, const int *__restrict__ first_escapes, const Piece *__restrict__ pieces) {
    const Strip strip = strips[blockIdx.x];
    const Part part = parts[strip.part];
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, lane_column = threadIdx.x / 32 * COLUMNS + 8 * t;
    const int column = strip.column + lane_column, first_column = column - 8 * t;
    const int end = min(part.height, strip.row + ROWS * STEPS);
    const unsigned width = part.width;

    const int first = PIECES ? part.first_piece : part.first_chunk, count = PIECES ? part.pieces : part.chunks;
    bool is_wanted = false, is_held = false;
    for (int i = first; i < first + count; i++) {
        is_wanted |= coefficients[i] != 0.0f;
        is_held |= LEAN && in_force[i] != 0.0f;
    }
    const int chunks = is_wanted || is_held ? part.chunks : 0;

    auto place = [&](int from, int band, int half) { return (from + 16 * band + 8 * half + g) * width + column; };
    auto inside = [&](int from, int band, int half) {
        return from + 16 * band + 8 * half + g < end ? part.width - column : 0;
    };
    auto load_weights = [&](Weights &weights, int from) {
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                weights[band][half] = load_eight(part.base + place(from, band, half), inside(from, band, half));
    };

    const unsigned height = (part.height + ROWS - 1) / ROWS * ROWS;
    const unsigned padded_width = (part.width + COLUMNS - 1) / COLUMNS * COLUMNS;
    constexpr int LINES = 32 * CHUNK / LINE;  // of 32 rows or columns of a chunk
    auto prefetch_left = [&](int from) {
        for (int i = threadIdx.x; i < chunks * LINES && from < end; i += THREADS)
            prefetch_factor(part.up + (i / LINES * height + from) * CHUNK + i % LINES * LINE);
    };
    auto prefetch_right = [&] {
        for (int i = threadIdx.x % 32; i < chunks * LINES && first_column < part.width; i += 32)
            prefetch_factor(part.down + (i / LINES * padded_width + first_column) * CHUNK + i % LINES * LINE);
    };
    auto prefetch_weights = [&](int from) {
        const int row = from + threadIdx.x / WARPS, begin = strip.column + threadIdx.x % WARPS * COLUMNS;
        if (row >= end || begin >= part.width) return;
        const unsigned at = row * width + begin;
        prefetch_weight(part.base + at);
#if PIECES
        for (int i = first; i < first + count; i++)
            if (pieces[i].kind == FULL) prefetch_weight(static_cast<const Bits *>(pieces[i].left) + at);
#endif
    };

    Pair left[BANDS][4][2], right[PRODUCTS][4];
    auto load_left = [&](int from, int chunk) {
        const Bits *up = part.up + (chunk * height + from) * CHUNK + threadIdx.x % 32 * 8;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint4 eight = load_factor(up + (16 * band + i / 2 * 8) * CHUNK);
                left[band][i][0] = pair_of(eight, i % 2 * 2);
                left[band][i][1] = pair_of(eight, i % 2 * 2 + 1);
            }
    };
    auto load_right = [&](int chunk) {
        const Bits *down = part.down + (chunk * padded_width + first_column) * CHUNK + threadIdx.x % 32 * 8;
#pragma unroll
        for (int j = 0; j < PRODUCTS; j++) {
            const uint4 eight = load_factor(down + 8 * j * CHUNK);
#pragma unroll
            for (int i = 0; i < 4; i++) right[j][i] = pair_of(eight, i);
        }
    };

    Weights weights, next;
    load_weights(weights, strip.row);
#pragma unroll
    for (int step = 1; step < AHEAD; step++) prefetch_weights(strip.row + step * ROWS);
    if (chunks > 1) {
        prefetch_left(strip.row);
        prefetch_right();
    }
    if (chunks == 1 && !PIECES && first_column < part.width) load_right(0);
    const float factor = ONE_EACH && chunks ? coefficients[part.first_chunk] : 1.0f;
    const float old_factor = ONE_EACH && LEAN && chunks ? -in_force[part.first_chunk] : 1.0f;

#if LEAN
    uint2 codes[BANDS][2];
#pragma unroll
    for (int band = 0; band < BANDS; band++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = strip.row / STEPS + 16 * band + 8 * half + g;
            const Byte *from = part.codes + row * ((part.width + 7) / 8 * 8) + column;
            codes[band][half] = column < part.width ? *reinterpret_cast<const uint2 *>(from) : make_uint2(0, 0);
        }

    // Escapes are put where they belong, so that none has to be looked for when its step comes.
    constexpr int STRIP_WIDTH = WARPS * COLUMNS, EIGHTS = ROWS * STEPS * STRIP_WIDTH / 8;
    __shared__ uint4 escapes[EIGHTS];
    auto escape_place = [](int row, int column) { return row * STRIP_WIDTH + (column ^ row % 2 * 32); };  // two banks
    for (int i = threadIdx.x; i < EIGHTS; i += THREADS)
        escapes[i] = make_uint4(NO_ESCAPES, NO_ESCAPES, NO_ESCAPES, NO_ESCAPES);
    __syncthreads();
    const int *limits = first_escapes + blockIdx.x + strip.part;
    for (int i = limits[0] + threadIdx.x; i < limits[1]; i += THREADS) {
        const unsigned escape = __ldg(part.escapes + i), position = escape >> 16;
        reinterpret_cast<Bits *>(escapes)[escape_place(position / STRIP_WIDTH, position % STRIP_WIDTH)] = escape;
    }
    __syncthreads();
#endif
    if (first_column >= part.width) return;

    auto add_product = [&](Sums &sums, int from, int first_chunk, int count) {
        for (int chunk = first_chunk; chunk < first_chunk + count; chunk++) {
            load_left(from, chunk);
            if (PIECES || chunks > 1) load_right(chunk);
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int j = 0; j < PRODUCTS; j++) multiply(sums[band][j], left[band], right[j]);
        }
    };
#if PIECES
    auto load_floats = [](float (&values)[8], const float *from, int inside) {
        if (ALIGNED) return load_factors(values, from);
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = i < inside ? __ldg(from + i) : 0.0f;
    };
    // Eight neighbours of a delta that needs no product of matrices.
    auto load_delta = [&](float (&values)[8], const Piece &piece, const uint4 &base, int row, unsigned place, int inside) {
        const float *left = static_cast<const float *>(piece.left), *right = static_cast<const float *>(piece.right);
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = 0.0f;
        if (inside <= 0) return;
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
                    if (i < inside) values[i] = __ldg(left_row + left_column) * __ldg(right_row + right_column);
                    if (++right_column == piece.width) right_column = 0, left_column++;
                }
            }
        } else if (piece.kind == FULL) {
            const uint4 eight = load_eight(static_cast<const Bits *>(piece.left) + place, inside);
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] = number_of(eight, i);
        } else if (piece.kind == WIDE) {
            load_floats(values, left + place, inside);
        } else {
            load_floats(values, right + column, inside);
            const float gain = __ldg(left + row);
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] = (gain * values[i] - piece.shift) * number_of(base, i);
        }
    };
#endif

    for (int step = 0; strip.row + step * ROWS < end; step++) {
        const int from = strip.row + step * ROWS;
        Sums wanted = {}, held = {};
        load_weights(next, from + ROWS);
        prefetch_weights(from + AHEAD * ROWS);
        prefetch_left(from + ROWS);
#if PIECES
        for (int i = first; i < first + count; i++) {
            const float coefficient = __ldg(coefficients + i);
            if (coefficient == 0.0f) continue;  // a delta that is no number does no harm then
            const Piece piece = pieces[i];
            const bool is_product = piece.kind == LOW_RANK || piece.kind == HADAMARD;
            Sums sums = {}, factors = {};
            if (is_product) add_product(sums, from, piece.first_chunk, piece.chunks);
            if (piece.kind == HADAMARD) add_product(factors, from, piece.first_chunk + piece.chunks, piece.other_chunks);
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float delta[8];
                    if (!is_product)
                        load_delta(delta, piece, weights[band][half], from + 16 * band + 8 * half + g,
                                   place(from, band, half), inside(from, band, half));
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        const float sum = sums[band][k % 4][half][k / 4], factor = factors[band][k % 4][half][k / 4];
                        const float value = piece.kind == HADAMARD ? sum * factor : is_product ? sum : delta[k];
                        wanted[band][k % 4][half][k / 4] += coefficient * value;
                    }
                }
        }
#elif ONE_EACH
        add_product(wanted, from, 0, chunks);
#else
        for (int chunk = 0; chunk < chunks; chunk++) {
            load_left(from, chunk);
            if (chunks > 1) load_right(chunk);
            const float coefficient = __ldg(coefficients + part.first_chunk + chunk);
            const float opposite = LEAN ? -__ldg(in_force + part.first_chunk + chunk) : 0.0f;
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int j = 0; j < PRODUCTS; j++) {
                    float product[2][2] = {};
                    multiply(product, left[band], right[j]);
#pragma unroll
                    for (int half = 0; half < 2; half++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            wanted[band][j][half][i] += coefficient * product[half][i];
                            if (LEAN) held[band][j][half][i] += opposite * product[half][i];
                        }
                }
        }
#endif
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Pair results[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    Pair base = pair_of(weights[band][half], i);
#if LEAN
                    const int row = from - strip.row + 16 * band + 8 * half + g;
                    const Pair near = added(base, ONE_EACH ? wanted : held, band, half, i, old_factor);
                    base = recovered(near, codes_of(codes[band][half], i) >> 2 * step,
                                     pair_of(escapes[escape_place(row, lane_column) / 8], i));
#endif
                    // Adding 0 would turn a pristine -0.0 into 0.0.
                    results[i] = is_wanted ? added(base, wanted, band, half, i, factor) : base;
                }
                store_eight(part.weight + place(from, band, half),
                            make_uint4(results[0], results[1], results[2], results[3]), inside(from, band, half));
                weights[band][half] = next[band][half];
            }
    }
}
