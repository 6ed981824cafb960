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

void apply_tile_maps(const View3<const float>& block, const long start[3], const TileGrid& grid, const GreyBins& bins,
                     const float* maps, int threads, float* out) {
  const long tiles_y = grid.tiles(1), tiles_x = grid.tiles(2), edges = bins.n_bins + 1, nx = block.shape[2];
  struct Position {
    long first, second;
    float weight;
  };
  std::vector<Position> along_x(nx);
  for (long x = 0; x < nx; ++x) {
    Position& p = along_x[x];
    tile_position(start[2] + x, grid.tile[2], tiles_x, p.first, p.second, p.weight);
    p.first *= edges, p.second *= edges;
  }
  parallel_for(
      block.shape[0] * block.shape[1], threads,
      [&](long line) {
        const long z = line / block.shape[1], y = line % block.shape[1], n = tiles_x * edges;
        Position in_z, in_y;
        tile_position(start[0] + z, grid.tile[0], grid.tiles(0), in_z.first, in_z.second, in_z.weight);
        tile_position(start[1] + y, grid.tile[1], tiles_y, in_y.first, in_y.second, in_y.weight);
        const auto row_of = [&](long tz, long ty) { return maps + (tz * tiles_y + ty) * n; };
        const float *a = row_of(in_z.first, in_y.first), *b = row_of(in_z.first, in_y.second);
        const float *c = row_of(in_z.second, in_y.first), *d = row_of(in_z.second, in_y.second);
        // z and y are the same for the whole row: its maps are interpolated once, and only x is left for each voxel.
        std::vector<float> row_maps(n);
        for (long i = 0; i < n; ++i) {
          const float near = a[i] + in_y.weight * (b[i] - a[i]), far = c[i] + in_y.weight * (d[i] - c[i]);
          row_maps[i] = near + in_z.weight * (far - near);
        }
        const float* values = block.row(z, y);
        for (long x = 0; x < nx; ++x) {
          float within;
          const long bin = grey_position(bins, values[x], within);
          const float left = mapped_grey(row_maps.data() + along_x[x].first, bin, within);
          const float right = mapped_grey(row_maps.data() + along_x[x].second, bin, within);
          out[line * nx + x] = left + along_x[x].weight * (right - left);
        }
      },
      block.shape[0] * block.shape[1] * (8 * tiles_x * edges + 16 * nx));
}

}  // namespace cryoet
