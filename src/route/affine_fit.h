// route/affine_fit.h
//
// y = a + b x, learnt from one pair after the other, with an assumption to begin with.
//
//   AffineFit fit({.intercept = 10, .slope = 0.125, .x = 1000});   // ms and tokens
//   fit.Add(2048, 270);
//   fit.At(4096)
//
// What matters is the relative error: a time that is 10 % off counts the same at 20 ms and at 2 s.
// The assumption weighs as much as a pair, half of it at 0 and half at `x`, and so keeps intercept
// and slope apart where all pairs have the same x. Old pairs fade, with a half-life of some twenty.
// A pair that is off by more than a factor of e counts as one that is off by that much: times have
// outliers, and large ones.
//
// Neither figure is ever negative: where the best line would have it so, it is 0 and the other one
// the best for that.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>

namespace sublet {

struct AffineAssumption {
  double intercept = 0;  // Not negative.
  double slope = 1;      // Above 0.
  double x = 1;          // Above 0: where the slope is assumed.
};

class AffineFit {
 public:
  explicit AffineFit(const AffineAssumption& assumption);

  // Pairs that aren't above 0 and finite are passed over.
  void Add(double x, double y);

  double intercept() const { return intercept_; }
  double slope() const { return slope_; }  // At least a thousandth of what was assumed.
  double At(double x) const { return intercept_ + slope_ * x; }
  std::int64_t count() const { return count_; }

 private:
  void Solve();

  AffineAssumption assumption_;
  double w_ = 0, wx_ = 0, wy_ = 0, wxx_ = 0, wxy_ = 0;  // Weighted sums.
  double intercept_;
  double slope_;
  std::int64_t count_ = 0;
};

}  // namespace sublet
