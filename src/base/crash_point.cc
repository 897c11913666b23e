#include "base/crash_point.h"

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string>

namespace sublet {
namespace {

struct Chosen {
  std::string name;
  int nth = 1;
};

Chosen FromEnvironment() {
  const char* const text = std::getenv("SUBLET_CRASH_AT");
  Chosen chosen;
  if (text == nullptr) return chosen;
  chosen.name = text;
  const std::size_t colon = chosen.name.find(':');
  if (colon == std::string::npos) return chosen;
  std::from_chars(chosen.name.data() + colon + 1, chosen.name.data() + chosen.name.size(),
                  chosen.nth);
  chosen.name.resize(colon);
  return chosen;
}

}  // namespace

void CrashPoint(std::string_view name) {
  static const Chosen chosen = FromEnvironment();
  static std::atomic<int> passed = 0;
  if (name != chosen.name || chosen.name.empty()) return;
  if (++passed == chosen.nth) std::raise(SIGKILL);
}

}  // namespace sublet
