// SPDX-License-Identifier: MIT
#include "ops/clahe.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "voxel/tile_equalisation.h"

namespace cryoet {

void count_tiles(const View3<const float>& planes, long first_z, const TileGrid& grid, const GreyBins& bins,
                 int threads, int* counts) {
  const long tiles_y = grid.tiles(1), tiles_x = grid.tiles(2), end_z = first_z + planes.shape[0];
  std::vector<long> mirrored_x(tiles_x * grid.tile[2]);
  for (long x = 0; x < static_cast<long>(mirrored_x.size()); ++x) mirrored_x[x] = mirror(x, grid.shape[2]);
  // A row of tiles (one z, one y) is counted by one thread: no two add to one counter.
  parallel_for(
      grid.tiles(0) * tiles_y, threads,
      [&](long line) {
        const long first_layer = line / tiles_y * grid.tile[0], first_row = line % tiles_y * grid.tile[1];
        int* row_counts = counts + line * tiles_x * bins.n_bins;
        for (long i = first_layer; i < first_layer + grid.tile[0]; ++i) {
          const long z = mirror(i, grid.shape[0]);
          if (z < first_z || z >= end_z) continue;
          for (long j = first_row; j < first_row + grid.tile[1]; ++j) {
            const float* values = planes.row(z - first_z, mirror(j, grid.shape[1]));
            const long* at = mirrored_x.data();
            for (long t = 0; t < tiles_x; ++t)
              for (long k = 0; k < grid.tile[2]; ++k) {
                float within;
                ++row_counts[t * bins.n_bins + grey_position(bins, values[*at++], within)];
              }
          }
        }
      },
      planes.shape[0] * planes.shape[1] * planes.shape[2]);
}

void equalise_tiles(const TileGrid& grid, long n_bins, double clip_limit, int threads, int* counts, float* maps) {
  const long n = grid.voxels(), clip = clip_height(clip_limit, n, n_bins);
  parallel_for(grid.tiles(0) * grid.tiles(1), threads, [&](long line) {
    for (long t = line * grid.tiles(2); t < (line + 1) * grid.tiles(2); ++t) {
      clip_histogram(counts + t * n_bins, n_bins, n, clip);
      tile_map(counts + t * n_bins, n_bins, n, maps + t * (n_bins + 1));
    }
  });
}

namespace {

struct Position {
  long first, second;  // tiles
  float weight;        // of the second
};

Position position(long i, const TileGrid& grid, int axis) {
  Position p{};
  tile_position(i, grid.tile[axis], grid.tiles(axis), p.first, p.second, p.weight);
  return p;
}

void interpolate(const float* first, const float* second, float weight, long n, float* out) {
  for (long i = 0; i < n; ++i) out[i] = first[i] + weight * (second[i] - first[i]);
}

}  // namespace

void apply_tile_maps(const View3<const float>& block, const long start[3], const TileGrid& grid, const GreyBins& bins,
                     const float* maps, int threads, float* out) {
  const long edges = bins.n_bins + 1, ny = block.shape[1], nx = block.shape[2], n = grid.tiles(2) * edges;
  const auto maps_of = [&](long tile_z, long tile_y) { return maps + (tile_z * grid.tiles(1) + tile_y) * n; };
  std::vector<Position> along_x(nx);
  for (long x = 0; x < nx; ++x) along_x[x] = position(start[2] + x, grid, 2);
  // Rows between the middles of the same two tiles form a band. A band's maps are interpolated along z once, a row's
  // along y once, and only x is left for each voxel.
  const long tile_y = grid.tile[1], before = tile_y - tile_y / 2;  // band 0 ends at the first tile's middle
  const long first_band = (start[1] + before) / tile_y, bands = (start[1] + ny - 1 + before) / tile_y - first_band + 1;
  parallel_for(
      block.shape[0] * bands, threads,
      [&](long part) {
        const long z = part / bands, band = first_band + part % bands;
        const long first_y = std::max(band * tile_y - before - start[1], 0L);
        const long end_y = std::min((band + 1) * tile_y - before - start[1], ny);
        const Position in_z = position(start[0] + z, grid, 0), in_y = position(start[1] + first_y, grid, 1);
        std::vector<float> low(n), high(n), row_maps(n);
        const float *below = maps_of(in_z.first, in_y.first), *above = maps_of(in_z.second, in_y.first);
        interpolate(below, above, in_z.weight, n, low.data());
        below = maps_of(in_z.first, in_y.second), above = maps_of(in_z.second, in_y.second);
        interpolate(below, above, in_z.weight, n, high.data());
        for (long y = first_y; y < end_y; ++y) {
          interpolate(low.data(), high.data(), position(start[1] + y, grid, 1).weight, n, row_maps.data());
          const float* values = block.row(z, y);
          for (long x = 0; x < nx; ++x) {
            const Position& p = along_x[x];
            float within;
            const long bin = grey_position(bins, values[x], within);
            const float left = mapped_grey(row_maps.data() + p.first * edges, bin, within);
            const float right = mapped_grey(row_maps.data() + p.second * edges, bin, within);
            out[(z * ny + y) * nx + x] = left + p.weight * (right - left);
          }
        }
      },
      block.shape[0] * ny * (4 * n + 16 * nx));
}

}  // namespace cryoet
