#include "measure/report.h"

#include <nlohmann/json.hpp>

#include "base/html_page.h"
#include "embedded/measure_page.h"

namespace sublet {

std::string MeasurementReport(const nlohmann::ordered_json& document) {
  constexpr int kCompact = -1;
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  return PutIntoPage(embedded::measure_page_html, document.dump(kCompact, ' ', false, kReplace));
}

}  // namespace sublet
