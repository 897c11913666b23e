#include "route/affine_fit.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sublet {
namespace {

constexpr double kFading = 1 - 1.0 / 32;  // Of each pair's weight with each later one.
constexpr double kFactorMax = 2.72;       // That a pair may be off by.

}  // namespace

AffineFit::AffineFit(const AffineAssumption& assumption)
    : assumption_(assumption), intercept_(assumption.intercept), slope_(assumption.slope) {
  CHECK(assumption.intercept >= 0 && assumption.slope > 0 && assumption.x > 0);
}

void AffineFit::Add(double x, double y) {
  if (!(x > 0 && y > 0) || !std::isfinite(x) || !std::isfinite(y)) return;
  const double expected = At(x);
  y = std::clamp(y, expected / kFactorMax, expected * kFactorMax);
  // Weighted by the expected y: by the measured one, small y would count for more, and the line lie
  // too low.
  const double weight = 1 / (expected * expected);
  w_ = w_ * kFading + weight;
  wx_ = wx_ * kFading + weight * x;
  wy_ = wy_ * kFading + weight * y;
  wxx_ = wxx_ * kFading + weight * x * x;
  wxy_ = wxy_ * kFading + weight * x * y;
  ++count_;
  Solve();
}

void AffineFit::Solve() {
  // The two assumed pairs, (0, intercept) and (x, intercept + slope x), both weighted as half of
  // one at x, by what is expected there now.
  const double x = assumption_.x;
  const double y0 = assumption_.intercept;
  const double yx = y0 + assumption_.slope * x;
  const double v = 0.5 / (At(x) * At(x));
  const double w = w_ + 2 * v;
  const double wx = wx_ + v * x;
  const double wy = wy_ + v * (y0 + yx);
  const double wxx = wxx_ + v * x * x;
  const double wxy = wxy_ + v * x * yx;
  const double determinant = w * wxx - wx * wx;
  intercept_ = (wxx * wy - wx * wxy) / determinant;
  slope_ = (w * wxy - wx * wy) / determinant;
  if (!(intercept_ >= 0)) {
    intercept_ = 0;
    slope_ = wxy / wxx;
  }
  const double slope_min = assumption_.slope * 1e-3;
  if (!(slope_ >= slope_min)) {
    slope_ = slope_min;
    intercept_ = std::max(0.0, (wy - slope_ * wx) / w);
  }
}

}  // namespace sublet
