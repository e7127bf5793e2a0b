// What ../lean.py keeps of pristine weights, in two passes over them: the first counts the escapes of each strip, the
// second, with WRITES, writes the codes, and the escapes to where those of the strip begin.
//
// Weights are pristine. Whether a weight is an escape depends on the largest delta that it may get: that of each piece
// at its limit, all of one sign. `errors` tell how far the sum of a piece's products may be off, in parts of the sum of
// their magnitudes.
//
// Macros, beside those of tiles.cuh: WRITES. PIECES, of any kind of ../pieces.py; else all are low-rank.

#include "tiles.cuh"

constexpr int STRIP_ROWS = 128, TILE_ROWS = 32;  // as in ../lean.py
constexpr int STEPS = STRIP_ROWS / ROWS;
constexpr int MANTISSA = BFLOAT16 ? 7 : 10, BIAS = BFLOAT16 ? 127 : 15;
constexpr int FLOAT_BIAS = 127, FLOAT_MANTISSA = 23;
constexpr Bits NO_ESCAPE = 0xFFFF, LEAST_CODED = BFLOAT16 ? 16 << MANTISSA : 2;
constexpr float LARGEST = BFLOAT16 ? 3.38953139e38f : 65504.0f;
constexpr float ROUNDING = 1.0f / (1 << 21);  // of float32 sums, generously

INLINE float power_of_two(int exponent) {
    return __uint_as_float(static_cast<unsigned>(exponent + FLOAT_BIAS) << FLOAT_MANTISSA);
}

// Whether `round(round(W + d) - d)` may be further from `bits` than its neighbours, for |d| up to `spread` that are
// computed with an `error`, if the weight is multiplied by no less than `least_gain` and no more than `largest_gain`.
INLINE bool is_escape(Bits bits, float spread, float error, float least_gain, float largest_gain) {
    const int magnitude = bits & 0x7FFF, exponent = max(magnitude >> MANTISSA, 1);
    if (magnitude < LEAST_CODED || !(least_gain > 0.0f)) return true;
    const bool is_power = (magnitude & ((1 << MANTISSA) - 1)) == 0 && exponent > 1;
    const float spacing = power_of_two(exponent - BIAS - MANTISSA - is_power);
    const float largest = fabsf(widened(bits)) * largest_gain + spread;
    if (!(largest < LARGEST)) return true;
    const int above = max(static_cast<int>(__float_as_uint(largest) >> FLOAT_MANTISSA) - FLOAT_BIAS, 1 - BIAS);
    const float inexact = 2.0f * error + largest * ROUNDING;
    return !(0.5f * power_of_two(above - MANTISSA) + inexact <= 1.4f * spacing * least_gain);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
encode(const Strip *__restrict__ strips, const Part *__restrict__ parts, const float *__restrict__ limits,
       const float *__restrict__ errors, const Piece *__restrict__ pieces, int *__restrict__ counts,
       int *__restrict__ unkept, const int *__restrict__ starts, unsigned *__restrict__ escapes) {
    const Strip strip = strips[blockIdx.x];
    const Part part = parts[strip.part];
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, lane_column = threadIdx.x / 32 * COLUMNS + 8 * t;
    const int column = strip.column + lane_column, first_column = column - 8 * t;
    const int end = min(part.height, strip.row + STRIP_ROWS);
    const unsigned width = part.width;

    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();

    uint2 codes[TILE_ROWS / ROWS][BANDS][2] = {};
    auto note = [&](Bits bits, int row, int column_in_strip) {
        const int number = atomicAdd(&count, 1);
#if WRITES
        escapes[starts[strip.number] + number] =
            static_cast<unsigned>(row * STRIP_WIDTH + column_in_strip) << 16 | bits;
#else
        if (bits == NO_ESCAPE) atomicAdd(unkept + strip.part, 1);
#endif
    };

#pragma unroll 1
    for (int step = 0; step < STEPS && first_column < part.width; step++) {
        const int from = strip.row + step * ROWS;
        if (from >= end) break;
        Weights weights;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = from + 16 * band + 8 * half + g, inside = row < end ? part.width - column : 0;
                weights[band][half] = load_eight(part.base + row * width + column, inside);
                if (ALIGNED && inside > 0 && row + ROWS < end) prefetch_weight(part.base + (row + ROWS) * width + column);
            }
        Sums spread = {}, error = {};
        bool has_gains = false;
#pragma unroll 1
        for (int i = part.first_piece; i < part.first_piece + part.pieces; i++) {
            const float limit = __ldg(limits + i), relative = __ldg(errors + i);
            const Piece piece = pieces[i];
            has_gains |= PIECES && piece.kind == GAINS;
            if (limit == 0.0f || PIECES && piece.kind == GAINS) continue;
            const bool is_pair = PIECES && piece.kind == HADAMARD, is_product = !PIECES || piece.kind <= HADAMARD;
            Sums sums = {}, magnitudes = {}, others = {}, other_magnitudes = {};
            Left left;
            Right right;
            auto add_products = [&](Sums &sums, Sums &magnitudes, int first_chunk, int chunks) {
#pragma unroll 1
                for (int chunk = first_chunk; chunk < first_chunk + chunks; chunk++) {
                    load_left(left, part.up, part.height, from, chunk);
                    load_right(right, part, first_column, chunk);
#pragma unroll
                    for (int band = 0; band < BANDS; band++)
#pragma unroll
                        for (int j = 0; j < PRODUCTS; j++) multiply(sums[band][j], left[band], right[j]);
#pragma unroll
                    for (int band = 0; band < BANDS; band++)
#pragma unroll
                        for (int j = 0; j < 4; j++) left[band][j][0] &= 0x7FFF7FFF, left[band][j][1] &= 0x7FFF7FFF;
#pragma unroll
                    for (int j = 0; j < PRODUCTS; j++)
#pragma unroll
                        for (int k = 0; k < 4; k++) right[j][k] &= 0x7FFF7FFF;
#pragma unroll
                    for (int band = 0; band < BANDS; band++)
#pragma unroll
                        for (int j = 0; j < PRODUCTS; j++) multiply(magnitudes[band][j], left[band], right[j]);
                }
            };
            if (is_product) add_products(sums, magnitudes, piece.first_chunk, piece.chunks);
            if (is_pair)
                add_products(others, other_magnitudes, piece.first_chunk + piece.chunks, piece.other_chunks);
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float delta[8] = {};
                    const int row = from + 16 * band + 8 * half + g, inside = row < end ? part.width - column : 0;
                    if (!is_product && inside > 0) load_delta(delta, piece, row, column, row * width + column, inside);
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        float value = fabsf(delta[k]), off = value;
                        if (is_product) {
                            value = fabsf(sum_of(sums, band, half, k));
                            off = sum_of(magnitudes, band, half, k);
                        }
                        if (is_pair) {
                            const float other = fabsf(sum_of(others, band, half, k));
                            off = off * other + value * sum_of(other_magnitudes, band, half, k);
                            value *= other;
                            off += value;
                        }
                        sum_of(spread, band, half, k) += limit * value;
                        sum_of(error, band, half, k) += limit * relative * off;
                    }
                }
        }
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = from + 16 * band + 8 * half + g, inside = row < end ? part.width - column : 0;
                float gain[8] = {};
                if (has_gains && inside > 0)
                    for (int i = part.first_piece; i < part.first_piece + part.pieces; i++)
                        if (pieces[i].kind == GAINS) {
                            float values[8];
                            load_gains(values, pieces[i], row, column, inside);
#pragma unroll
                            for (int k = 0; k < 8; k++) gain[k] += __ldg(limits + i) * fabsf(values[k]);
                        }
                uint2 found = make_uint2(0, 0);
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const Bits bits = bits_of(weights[band][half], k);
                    const unsigned code = (bits & 3) << (k % 4 * 8);
                    if (k < 4) found.x |= code;
                    else found.y |= code;
                    if (k < inside && is_escape(bits, sum_of(spread, band, half, k), sum_of(error, band, half, k),
                                                1.0f - gain[k], 1.0f + gain[k]))
                        note(bits, row - strip.row, lane_column + k);
                }
                const int tile = step * ROWS / TILE_ROWS;
#pragma unroll
                for (int part_of_tile = 0; part_of_tile < TILE_ROWS / ROWS; part_of_tile++)
                    if (step % (TILE_ROWS / ROWS) == part_of_tile) {
                        codes[part_of_tile][band][half].x |= found.x << 2 * tile;
                        codes[part_of_tile][band][half].y |= found.y << 2 * tile;
                    }
            }
    }
    __syncthreads();
#if WRITES
    if (column < part.width) {
#pragma unroll
        for (int part_of_tile = 0; part_of_tile < TILE_ROWS / ROWS; part_of_tile++)
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const unsigned row = strip.row / (STRIP_ROWS / TILE_ROWS) + part_of_tile * ROWS + 16 * band + 8 * half + g;
                    Byte *to = part.codes + row * ((part.width + 7) / 8 * 8) + column;
                    *reinterpret_cast<uint2 *>(to) = codes[part_of_tile][band][half];
                }
    }
#else
    if (threadIdx.x == 0) counts[strip.number] = count;
#endif
}
