#include "plan/master.h"

#include <CbcModel.hpp>
#include <ClpSimplex.hpp>
#include <OsiClpSolverInterface.hpp>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>
#include <string>

#include "base/check.h"

// LAPACK and BLAS call it where a caller of theirs gave them what makes no sense; who links them
// may have one of his own. Theirs prints by Fortran's library, which nothing else here needs.
extern "C" void xerbla_(const char* routine, const int* argument, std::size_t routine_size);

void xerbla_(const char* /*routine*/, const int* /*argument*/, std::size_t /*routine_size*/) {
  CHECK(false && "a BLAS routine was called with a bad argument");
}

namespace sublet {
namespace {

// A missing replica costs more than any GPU could, so that it is missing only where none is left.
constexpr double kMissingFactor = 100;

// Two patterns with the same board and counts are the same column, however they are arranged.
std::vector<int> KeyOf(const Pattern& pattern) {
  std::vector<int> key{pattern.board};
  for (const auto& [workload, count] : pattern.counts) {
    key.push_back(workload);
    key.push_back(count);
  }
  return key;
}

}  // namespace

struct Master::Impl {
  const Problem& problem;
  ClpSimplex lp;
  std::vector<Pattern> patterns;
  std::set<std::vector<int>> known;
  std::vector<int> pool_row;  // By board; -1 without limit.
  int workloads = 0;

  explicit Impl(const Problem& p) : problem(p) {}
};

Master::Master(const Problem& problem, const std::vector<int>& demand)
    : impl_(std::make_unique<Impl>(problem)) {
  ClpSimplex& lp = impl_->lp;
  lp.setLogLevel(0);
  impl_->workloads = static_cast<int>(demand.size());
  double price_max = 0;
  for (const BoardOffers& board : problem.boards) {
    price_max = std::max(price_max, board.pool.price_usd_hour);
  }
  for (const int d : demand) lp.addRow(0, nullptr, nullptr, d, COIN_DBL_MAX);
  for (const BoardOffers& board : problem.boards) {
    impl_->pool_row.push_back(board.pool.count < 0 ? -1 : lp.numberRows());
    if (board.pool.count >= 0) lp.addRow(0, nullptr, nullptr, -COIN_DBL_MAX, board.pool.count);
  }
  for (int w = 0; w < impl_->workloads; ++w) {
    const double one = 1;
    lp.addColumn(1, &w, &one, 0, COIN_DBL_MAX, price_max * kMissingFactor);
  }
}

Master::~Master() = default;

bool Master::Add(Pattern pattern) {
  if (!impl_->known.insert(KeyOf(pattern)).second) return false;
  std::vector<int> rows;
  std::vector<double> values;
  for (const auto& [workload, count] : pattern.counts) {
    rows.push_back(workload);
    values.push_back(count);
  }
  const auto b = static_cast<std::size_t>(pattern.board);
  if (impl_->pool_row[b] >= 0) {
    rows.push_back(impl_->pool_row[b]);
    values.push_back(1);
  }
  impl_->lp.addColumn(static_cast<int>(rows.size()), rows.data(), values.data(), 0, COIN_DBL_MAX,
                      impl_->problem.boards[b].pool.price_usd_hour);
  impl_->patterns.push_back(std::move(pattern));
  return true;
}

void Master::SetDemand(const std::vector<int>& demand) {
  for (std::size_t w = 0; w < demand.size(); ++w) {
    impl_->lp.setRowLower(static_cast<int>(w), demand[w]);
  }
  for (std::size_t p = 0; p < impl_->patterns.size(); ++p) {
    const auto& counts = impl_->patterns[p].counts;
    const bool proper = std::all_of(counts.begin(), counts.end(), [&](const auto& c) {
      return c.second <= demand[static_cast<std::size_t>(c.first)];
    });
    impl_->lp.setColumnUpper(impl_->workloads + static_cast<int>(p), proper ? COIN_DBL_MAX : 0);
  }
}

void Master::SetPool(int board, int count) {
  const int row = impl_->pool_row[static_cast<std::size_t>(board)];
  if (row >= 0) impl_->lp.setRowUpper(row, count);
}

void Master::Minimise() {
  impl_->lp.primal(1);
  CHECK(impl_->lp.status() == 0);
}

const std::vector<Pattern>& Master::patterns() const {
  return impl_->patterns;
}

double Master::value() const {
  return impl_->lp.objectiveValue();
}

std::vector<double> Master::Amounts() const {
  const double* x = impl_->lp.primalColumnSolution() + impl_->workloads;
  return {x, x + impl_->patterns.size()};
}

std::vector<double> Master::Worths() const {
  const double* dual = impl_->lp.dualRowSolution();
  std::vector<double> worths(dual, dual + impl_->workloads);
  for (double& worth : worths) worth = std::max(0.0, worth);
  return worths;
}

double Master::Scarcity(int board) const {
  const int row = impl_->pool_row[static_cast<std::size_t>(board)];
  return row < 0 ? 0 : std::min(0.0, impl_->lp.dualRowSolution()[row]);
}

std::vector<int> Master::Round(double cost_below, int nodes_max) const {
  ClpSimplex copy(impl_->lp);  // The interface changes the program that it is given.
  OsiClpSolverInterface solver(&copy);
  solver.messageHandler()->setLogLevel(0);
  const int columns = solver.getNumCols();
  for (int c = impl_->workloads; c < columns; ++c) solver.setInteger(c);
  for (int c = 0; c < impl_->workloads; ++c) solver.setColUpper(c, 0);  // Everything is placed.
  CbcModel model(solver);
  model.setLogLevel(0);
  model.messageHandler()->setLogLevel(0);
  model.setMaximumNodes(nodes_max);
  model.setCutoff(cost_below - 1e-6);
  model.branchAndBound();
  const double* best = model.bestSolution();
  if (best == nullptr) return {};
  std::vector<int> amounts;
  for (int c = impl_->workloads; c < columns; ++c) {
    amounts.push_back(static_cast<int>(std::lround(best[c])));
  }
  return amounts;
}

}  // namespace sublet
