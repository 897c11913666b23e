#include "base/bytes.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace sublet {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr double kKibi = 1024;
constexpr double kKilo = 1000;
constexpr std::array<Unit, 14> kUnits{{
    {"", 1},
    {"B", 1},
    {"Ki", kKibi},
    {"KiB", kKibi},
    {"KB", kKilo},
    {"Mi", kKibi* kKibi},
    {"MiB", kKibi* kKibi},
    {"MB", kKilo* kKilo},
    {"Gi", kKibi* kKibi* kKibi},
    {"GiB", kKibi* kKibi* kKibi},
    {"GB", kKilo* kKilo* kKilo},
    {"Ti", kKibi* kKibi* kKibi* kKibi},
    {"TiB", kKibi* kKibi* kKibi* kKibi},
    {"TB", kKilo* kKilo* kKilo* kKilo},
}};

constexpr double kBytesMax = static_cast<double>(1LL << 60);  // Sums of eight still fit 64 bits.

}  // namespace

Result<Bytes> ParseBytes(std::string_view text) {
  const auto bad = [&] {
    return Fail(ErrorCode::kInvalid,
                fmt::format("not an amount of memory: '{}'", text.substr(0, 64)),
                "write it like 20GiB, 512MiB or 16GB");
  };
  double number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec != std::errc() || !std::isfinite(number) || number < 0) return bad();
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double bytes = number * known.factor;
    if (bytes >= kBytesMax) return bad();
    return Bytes{static_cast<std::int64_t>(std::llround(bytes))};
  }
  return bad();
}

std::string FormatBytes(Bytes bytes) {
  const double count = static_cast<double>(bytes.count);
  if (bytes.count >= (1LL << 40)) return fmt::format("{:.1f} TiB", count / (1LL << 40));
  if (bytes.count >= (1LL << 30)) return fmt::format("{:.1f} GiB", count / (1LL << 30));
  if (bytes.count >= (1LL << 20)) return fmt::format("{} MiB", bytes.mib());
  if (bytes.count >= (1LL << 10)) return fmt::format("{} KiB", bytes.count >> 10);
  return fmt::format("{} B", bytes.count);
}

}  // namespace sublet
