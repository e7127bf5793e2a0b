// Brings the factors of low-rank deltas, as files have them, into the order in which tensor cores take them, see
// ../factors.py. A thread writes eight neighbours.

#include "primitives.cuh"

constexpr int CHUNK = 32, SIDE = 32, THREADS = 128, EIGHT = 8;

// A matrix [rows, columns], and where it goes: `up`, whose columns are the rank, or `down`, whose rows are.
struct Matrix {
    const Bits *from;
    Bits *to;
    int rows, columns, is_down, unused;
};

struct Tile {
    int matrix, number;
};

INLINE int padded(int size) { return (size + SIDE - 1) / SIDE * SIDE; }

// The largest magnitude of each matrix, as the number of it among the 16-bit floats, is left in `largest`.
extern "C" __global__ void __launch_bounds__(THREADS)
pack(const Tile *__restrict__ tiles, const Matrix *__restrict__ matrices, int *__restrict__ largest) {
    const Tile tile = tiles[blockIdx.x];
    const Matrix matrix = matrices[tile.matrix];
    const int place = (tile.number * THREADS + threadIdx.x) * EIGHT;
    const int of_chunk = (matrix.is_down ? padded(matrix.columns) : padded(matrix.rows)) * CHUNK;
    const int chunk = place / of_chunk, within = place % of_chunk;
    Bits bits[EIGHT];
    int most = 0;
#pragma unroll
    for (int i = 0; i < EIGHT; i++) {
        int row, column;
        if (matrix.is_down) {
            row = CHUNK * chunk + (within + i) % CHUNK;
            column = within / (SIDE * CHUNK) * SIDE + within / CHUNK % 8 * 4 + within / (8 * CHUNK) % 4;
        } else {
            row = within / (16 * CHUNK) * 16 + i / 2 % 2 * 8 + within / CHUNK % 8;
            column = CHUNK * chunk + within / EIGHT % 4 * 8 + within / (8 * CHUNK) % 2 * 4 + i / 4 * 2 + i % 2;
        }
        const bool is_there = row < matrix.rows && column < matrix.columns;
        bits[i] = is_there ? matrix.from[static_cast<size_t>(row) * matrix.columns + column] : 0;
        most = max(most, bits[i] & 0x7FFF);
    }
    store_once(matrix.to + place, make_uint4(paired(bits[0], bits[1]), paired(bits[2], bits[3]),
                                             paired(bits[4], bits[5]), paired(bits[6], bits[7])));
    if (most > largest[tile.matrix]) atomicMax(largest + tile.matrix, most);
}
