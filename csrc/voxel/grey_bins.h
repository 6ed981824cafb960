// SPDX-License-Identifier: MIT
// Where a grey value lies among the equal bins of a range.
#pragma once

#include "core/platform.h"

namespace cryoet {

struct GreyBins {
  double low;    // left edge of the first bin
  double high;   // right edge of the last bin
  double scale;  // bins in a unit of grey value
  long n_bins;
};

CRYOET_HD GreyBins grey_bins(double low, double high, long n_bins) {
  return {low, high, static_cast<double>(n_bins) / (high - low), n_bins};
}

// The bin floor((v - low) n / (high - low)), the last one with its right edge; -1 outside the range and for NaN.
CRYOET_HD long grey_bin(const GreyBins& bins, float v) {
  const double value = v;
  if (!(value >= bins.low && value <= bins.high)) return -1;
  const long bin = static_cast<long>((value - bins.low) * bins.scale);
  return bin < bins.n_bins ? bin : bins.n_bins - 1;
}

// The bin of v and how far v lies in it, 0..1; values beyond the range lie at its ends, NaN at the low one.
CRYOET_HD long grey_position(const GreyBins& bins, float v, float& within) {
  const double position = (v - bins.low) * bins.scale;
  const double inside = position > 0.0 ? (position < bins.n_bins ? position : static_cast<double>(bins.n_bins)) : 0.0;
  long bin = static_cast<long>(inside);
  if (bin == bins.n_bins) --bin;
  within = static_cast<float>(inside - static_cast<double>(bin));
  return bin;
}

}  // namespace cryoet
