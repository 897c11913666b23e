#include "render/report.h"

#include "base/html_page.h"
#include "embedded/plan_page.h"

namespace sublet {

std::string RenderReport(std::string_view plan_json) {
  return PutIntoPage(embedded::plan_page_html, plan_json);
}

}  // namespace sublet
