// The in-place update: one launch for all layers of a switch, and one pass over each weight.
//
// What bounds it is memory: each weight's pristine value is read once and the weight is written once. A block works
// down a strip of a weight, each of its warps on 32 columns, 32 rows at a time, with the weights of the next steps on
// their way. No warp waits for another: the factors come from the cache to the registers in the order in which the
// tensor cores take them, and each warp has brought a share of them there one step before.
//
// Macros, beside those of tiles.cuh: ONE_EACH, all deltas of a weight have one coefficient. LEAN, the pristine
// value is recovered from the patched one, see ../lean.py. PIECES, deltas are of any kind of ../pieces.py, and each
// piece has a coefficient; else they are low-rank, and each chunk of them has. STEPS, of a strip. BLOCKS_AT_ONCE, on a
// multiprocessor.
//
// A rotation needs other rows of the pristine weight than those that are written, so they have to be in a copy.

#include "tiles.cuh"

constexpr int AHEAD = 3;  // steps of which the weights are on their way to the cache

// Pair i of a lane's eight weights with their sums, by a factor, added to them, in one rounding.
INLINE Pair added(Pair weights, const Sums &sums, int band, int half, int i, float factor) {
    return rounded(widened(weights & 0xFFFF) + factor * sums[band][i % 2 * 2][half][i / 2],
                   widened(weights >> 16) + factor * sums[band][i % 2 * 2 + 1][half][i / 2]);
}

// As `added`, after the weights have been multiplied by gains, or with the sums before they are divided by them.
INLINE Pair gained(Pair weights, const Sums &sums, int band, int half, int i, const float (&gains)[8]) {
    return rounded(widened(weights & 0xFFFF) * gains[2 * i] + sums[band][i % 2 * 2][half][i / 2],
                   widened(weights >> 16) * gains[2 * i + 1] + sums[band][i % 2 * 2 + 1][half][i / 2]);
}

INLINE Pair ungained(Pair weights, const Sums &sums, int band, int half, int i, const float (&gains)[8]) {
    return rounded((widened(weights & 0xFFFF) + sums[band][i % 2 * 2][half][i / 2]) / gains[2 * i],
                   (widened(weights >> 16) + sums[band][i % 2 * 2 + 1][half][i / 2]) / gains[2 * i + 1]);
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

// The lean way needs `in_force`, the coefficients of what is in the weights, and the `escapes` of all strips, those of
// strip i from starts[i] on.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
update(const Strip *__restrict__ strips, const Part *__restrict__ parts, const float *__restrict__ coefficients,
       const float *__restrict__ in_force, const int *__restrict__ starts, const unsigned *__restrict__ escapes,
       const Piece *__restrict__ pieces) {
    const Strip strip = strips[blockIdx.x];
    const Part part = parts[strip.part];
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, lane_column = threadIdx.x / 32 * COLUMNS + 8 * t;
    const int column = strip.column + lane_column, first_column = column - 8 * t;
    const int end = min(part.height, strip.row + ROWS * STEPS);
    const unsigned width = part.width;

    const int first = PIECES ? part.first_piece : part.first_chunk, count = PIECES ? part.pieces : part.chunks;
    bool is_wanted = false, is_held = false, has_gains = false;
    for (int i = first; i < first + count; i++) {
        is_wanted |= coefficients[i] != 0.0f;
        is_held |= LEAN && in_force[i] != 0.0f;
#if PIECES
        has_gains |= pieces[i].kind == GAINS;
#endif
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

    Left left;
    Right right;
    Weights weights, next;
    load_weights(weights, strip.row);
#pragma unroll
    for (int step = 1; step < AHEAD; step++) prefetch_weights(strip.row + step * ROWS);
    if (chunks > 1) {
        prefetch_left(strip.row);
        prefetch_right();
    }
    if (chunks == 1 && !PIECES && first_column < part.width) load_right(right, part, first_column, 0);
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
    constexpr int EIGHTS = ROWS * STEPS * STRIP_WIDTH / 8;
    __shared__ uint4 escaped[EIGHTS];
    auto escape_place = [](int row, int column) { return row * STRIP_WIDTH + (column ^ row % 2 * 32); };  // two banks
    for (int i = threadIdx.x; i < EIGHTS; i += THREADS)
        escaped[i] = make_uint4(NO_ESCAPES, NO_ESCAPES, NO_ESCAPES, NO_ESCAPES);
    __syncthreads();
    for (int i = starts[strip.number] + threadIdx.x; i < starts[strip.number + 1]; i += THREADS) {
        const unsigned escape = __ldg(escapes + i), position = escape >> 16;
        reinterpret_cast<Bits *>(escaped)[escape_place(position / STRIP_WIDTH, position % STRIP_WIDTH)] = escape;
    }
    __syncthreads();
#endif
    if (first_column >= part.width) return;

    auto multiply_all = [&](Sums &sums) {
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int j = 0; j < PRODUCTS; j++) multiply(sums[band][j], left[band], right[j]);
    };
    auto add_product = [&](Sums &sums, int from, int first_chunk, int count) {
        for (int chunk = first_chunk; chunk < first_chunk + count; chunk++) {
            load_left(left, part.up, part.height, from, chunk);
            if (PIECES || chunks > 1) load_right(right, part, first_column, chunk);
            multiply_all(sums);
        }
    };
#if PIECES && !LEAN
    auto add_rotation = [&](Sums &sums, int from, const Piece &piece) {
        const int begin = from / piece.height * piece.height;  // of the first of the blocks that the rows are in
        for (int chunk = 0; chunk < piece.chunks; chunk++) {
            load_rows(right, part, begin + chunk * CHUNK, first_column);
            for (int half = 0; half < 2; half++) {
                const Bits *turns = static_cast<const Bits *>(piece.left);
                load_left(left, turns, part.height, from, chunk + half * piece.chunks);
                multiply_all(sums);
            }
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
            const float coefficient = __ldg(coefficients + i), opposite = LEAN ? -__ldg(in_force + i) : 0.0f;
            if (coefficient == 0.0f && opposite == 0.0f) continue;
            const Piece piece = pieces[i];
            if (piece.kind == GAINS) continue;
            const bool is_low_rank = piece.kind == LOW_RANK || piece.kind == HADAMARD;
            const bool is_product = is_low_rank || piece.kind == ROTATION;
            Sums sums = {}, factors = {};
#if !LEAN
            if (piece.kind == ROTATION) add_rotation(sums, from, piece);
#endif
            if (is_low_rank) add_product(sums, from, piece.first_chunk, piece.chunks);
            if (piece.kind == HADAMARD) add_product(factors, from, piece.first_chunk + piece.chunks, piece.other_chunks);
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float delta[8] = {};
                    const int row = from + 16 * band + 8 * half + g, available = inside(from, band, half);
                    if (!is_product && available > 0)
                        load_delta(delta, piece, row, column, place(from, band, half), available);
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        const float sum = sum_of(sums, band, half, k);
                        const float product = piece.kind == HADAMARD ? sum * sum_of(factors, band, half, k) : sum;
                        const float value = is_product ? product : delta[k];
                        // A delta that is no number does no harm at strength 0.
                        if (coefficient != 0.0f) sum_of(wanted, band, half, k) += coefficient * value;
                        if (LEAN && opposite != 0.0f) sum_of(held, band, half, k) += opposite * value;
                    }
                }
        }
#elif ONE_EACH
        add_product(wanted, from, 0, chunks);
#else
        for (int chunk = 0; chunk < chunks; chunk++) {
            load_left(left, part.up, part.height, from, chunk);
            if (chunks > 1) load_right(right, part, first_column, chunk);
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
#if PIECES
                float gains[8], old_gains[8];
#pragma unroll
                for (int k = 0; k < 8; k++) gains[k] = old_gains[k] = 1.0f;
                const int available = inside(from, band, half);
                if (has_gains && available > 0)
                    for (int i = first; i < first + count; i++) {
                        const float coefficient = __ldg(coefficients + i), old = LEAN ? __ldg(in_force + i) : 0.0f;
                        if (pieces[i].kind != GAINS || (coefficient == 0.0f && old == 0.0f)) continue;
                        float values[8];
                        load_gains(values, pieces[i], from + 16 * band + 8 * half + g, column, available);
#pragma unroll
                        for (int k = 0; k < 8; k++) {
                            if (coefficient != 0.0f) gains[k] += coefficient * values[k];
                            if (LEAN && old != 0.0f) old_gains[k] += old * values[k];
                        }
                    }
#endif
                Pair results[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    Pair base = pair_of(weights[band][half], i);
#if LEAN
                    const int row = from - strip.row + 16 * band + 8 * half + g;
#if PIECES
                    const Pair near = has_gains ? ungained(base, held, band, half, i, old_gains)
                                                : added(base, held, band, half, i, 1.0f);
#else
                    const Pair near = added(base, ONE_EACH ? wanted : held, band, half, i, old_factor);
#endif
                    base = recovered(near, codes_of(codes[band][half], i) >> 2 * step,
                                     pair_of(escaped[escape_place(row, lane_column) / 8], i));
#endif
                    // Adding 0 would turn a pristine -0.0 into 0.0.
#if PIECES
                    results[i] = !is_wanted  ? base
                                 : has_gains ? gained(base, wanted, band, half, i, gains)
                                             : added(base, wanted, band, half, i, 1.0f);
#else
                    results[i] = is_wanted ? added(base, wanted, band, half, i, factor) : base;
#endif
                }
                store_eight(part.weight + place(from, band, half),
                            make_uint4(results[0], results[1], results[2], results[3]), inside(from, band, half));
                weights[band][half] = next[band][half];
            }
    }
}
