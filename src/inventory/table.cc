#include "inventory/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

namespace sublet {
namespace {

constexpr std::size_t kWidth = 100;

// Rows of cells, each column as wide as its widest cell. The last column isn't padded.
class Grid {
 public:
  // Columns whose heading begins with '>' are aligned right.
  explicit Grid(std::vector<std::string> headings) {
    for (std::string& heading : headings) {
      const bool right = heading.starts_with('>');
      right_.push_back(right);
      widths_.push_back(heading.size() - (right ? 1 : 0));
      if (right) heading.erase(0, 1);
    }
    rows_.push_back(std::move(headings));
  }

  void Add(std::vector<std::string> cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      widths_[i] = std::max(widths_[i], cells[i].size());
    }
    rows_.push_back(std::move(cells));
  }

  bool empty() const { return rows_.size() == 1; }

  std::string Text(std::string_view indent, TableStyle style) const {
    std::string text;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      std::string line(indent);
      for (std::size_t i = 0; i < rows_[row].size(); ++i) {
        const std::string& cell = rows_[row][i];
        const bool last = i + 1 == rows_[row].size();
        if (right_[i]) {
          line += fmt::format("{:>{}}", cell, widths_[i]);
        } else {
          line += last ? cell : fmt::format("{:<{}}", cell, widths_[i]);
        }
        if (!last) line += "  ";
      }
      while (line.ends_with(' ')) line.pop_back();
      text += row == 0 && style.colour ? fmt::format("\x1b[2m{}\x1b[0m\n", line) : line + "\n";
    }
    return text;
  }

 private:
  std::vector<bool> right_;
  std::vector<std::size_t> widths_;
  std::vector<std::vector<std::string>> rows_;
};

std::string Bold(std::string_view text, TableStyle style) {
  return style.colour ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text);
}

std::string Red(std::string_view text, TableStyle style) {
  return style.colour ? fmt::format("\x1b[31m{}\x1b[0m", text) : std::string(text);
}

std::string Section(std::string_view title, std::string_view body, TableStyle style) {
  if (body.empty()) return {};
  return fmt::format("\n{}\n{}", Bold(title, style), body);
}

// Breaks at blanks so that lines stay within kWidth; further lines begin with `indent` blanks.
std::string Wrap(std::string_view text, std::size_t indent) {
  std::string out;
  std::size_t column = indent;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (column > indent && column + 1 + end > kWidth) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

template <typename T>
std::string OrDash(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "-";
}

std::string OrDash(std::string_view text) {
  return text.empty() ? "-" : std::string(text);
}

// "0-3, 6" for {0, 1, 2, 3, 6}.
std::string Ranges(const std::vector<int>& numbers) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i;
    while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1) ++end;
    parts.push_back(end == i ? fmt::format("{}", numbers[i])
                             : fmt::format("{}-{}", numbers[i], numbers[end]));
    i = end + 1;
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string MigMode(const Gpu& gpu) {
  if (!gpu.mig_capable) return "-";
  const std::string_view now = gpu.mig_enabled ? "on" : "off";
  if (gpu.mig_pending == gpu.mig_enabled) return std::string(now);
  return fmt::format("{}, {} after reset", now, gpu.mig_pending ? "on" : "off");
}

std::string Header(const Inventory& node, TableStyle style) {
  std::string cuda;
  if (node.driver.cuda_version > 0) {
    cuda = fmt::format(", CUDA {}.{}", node.driver.cuda_version / 1000,
                       node.driver.cuda_version % 1000 / 10);
  }
  std::vector<std::string_view> notes;
  if (node.host.wsl2) notes.push_back("WSL2");
  if (node.host.container) notes.push_back("container");
  if (!node.host.admin) notes.push_back("not privileged");
  const std::string where = notes.empty() ? "" : fmt::format(" ({})", fmt::join(notes, ", "));
  return fmt::format("{}  Linux {}, {} cores{}\ndriver {}{}{}\n", Bold(node.host.hostname, style),
                     node.host.kernel, node.host.cpu_cores, where, OrDash(node.driver.version),
                     cuda, node.driver.simulated ? " (simulated)" : "");
}

std::string Shortened(std::string_view text, std::size_t width) {
  if (text.size() <= width) return std::string(text);
  return std::string(text.substr(0, width - 3)) + "...";
}

std::string Gpus(const Inventory& node, TableStyle style) {
  constexpr std::size_t kProductWidth = 30;  // What UUID and the other columns leave of 100.
  Grid figures({">GPU", "Board", ">Memory", ">Used", ">SMs", ">CC", ">Busy", "Compute mode", "MIG",
                ">ECC errors"});
  Grid names({">GPU", "UUID", "PCI", ">NUMA", "Product"});
  std::string problems;
  for (const Gpu& gpu : node.gpus) {
    if (!gpu.problem.empty()) {
      problems += Red(fmt::format("  GPU {}: {}\n", gpu.index, gpu.problem), style);
      continue;
    }
    const auto& uncorrected = gpu.health.ecc_errors_uncorrected;
    figures.Add({fmt::format("{}", gpu.index), OrDash(gpu.board), FormatBytes(gpu.memory),
                 FormatBytes(gpu.memory_used), OrDash(gpu.sm_count),
                 fmt::format("{}.{}", gpu.compute_capability_major, gpu.compute_capability_minor),
                 gpu.utilisation_percent ? fmt::format("{} %", *gpu.utilisation_percent) : "-",
                 gpu.compute_mode ? std::string(ComputeModeName(*gpu.compute_mode)) : "-",
                 MigMode(gpu), OrDash(uncorrected)});
    std::string_view pci = gpu.pci_bus_id;
    if (pci.starts_with("0000") && pci.size() > 12) pci.remove_prefix(4);  // As lspci writes it.
    names.Add({fmt::format("{}", gpu.index), gpu.uuid, std::string(pci), OrDash(gpu.numa_node),
               Shortened(gpu.product, kProductWidth)});
  }
  std::string body;
  if (!figures.empty()) body = figures.Text("  ", style) + "\n" + names.Text("  ", style);
  return Section("GPUs", body + problems, style);
}

std::string Placements(const ReportedProfile& profile) {
  if (profile.placements.empty()) return "-";
  std::vector<int> starts;
  for (const Placement& placement : profile.placements) starts.push_back(placement.start);
  return fmt::format("{{{}}}:{}", fmt::join(starts, ","), profile.placements.front().size);
}

std::string ProfileTable(const std::vector<ReportedProfile>& profiles, TableStyle style) {
  Grid grid({"Profile", ">Id", ">Max", ">Memory", ">SMs", ">Copy", ">Dec", ">Enc", ">Jpeg", ">Ofa",
             "Placements"});
  for (const ReportedProfile& profile : profiles) {
    grid.Add({OrDash(profile.name), fmt::format("{}", profile.id),
              fmt::format("{}", profile.max_instances), FormatBytes(profile.memory),
              fmt::format("{}", profile.sm_count), fmt::format("{}", profile.engines.copy),
              fmt::format("{}", profile.engines.decoder),
              fmt::format("{}", profile.engines.encoder), fmt::format("{}", profile.engines.jpeg),
              fmt::format("{}", profile.engines.ofa), Placements(profile)});
  }
  return grid.Text("  ", style);
}

// GPUs with the same table are shown together.
std::string Profiles(const Inventory& node, TableStyle style) {
  std::vector<std::pair<std::string, std::vector<int>>> tables;
  for (const Gpu& gpu : node.gpus) {
    if (gpu.profiles.empty()) continue;
    std::string table = ProfileTable(gpu.profiles, style);
    const auto known =
        std::ranges::find(tables, table, &std::pair<std::string, std::vector<int>>::first);
    if (known == tables.end()) {
      tables.emplace_back(std::move(table), std::vector<int>{gpu.index});
    } else {
      known->second.push_back(gpu.index);
    }
  }
  std::string text;
  for (const auto& [table, gpus] : tables) {
    text += Section(fmt::format("MIG profiles on offer, GPU {}", Ranges(gpus)), table, style);
  }
  return text;
}

std::string Instances(const Inventory& node, TableStyle style) {
  Grid grid({">GPU", ">GI", "Profile", "Placement", ">CI", "MIG device"});
  for (const Gpu& gpu : node.gpus) {
    for (const GpuInstance& instance : gpu.instances) {
      const std::string place =
          instance.placement.size == 0
              ? "-"
              : fmt::format("{}:{}", instance.placement.start, instance.placement.size);
      std::vector<std::string> row{fmt::format("{}", gpu.index),
                                   fmt::format("{}", instance.id),
                                   OrDash(instance.profile),
                                   place,
                                   "-",
                                   "-"};
      if (instance.compute_instances.empty()) grid.Add(row);
      for (const ComputeInstance& compute : instance.compute_instances) {
        row[4] = fmt::format("{}", compute.id);
        row[5] = OrDash(compute.uuid);
        grid.Add(row);
      }
    }
  }
  return grid.empty() ? "" : Section("MIG instances", grid.Text("  ", style), style);
}

std::string Processes(const Inventory& node, TableStyle style) {
  constexpr std::size_t kNameWidth = 52;  // What the columns before leave of 100.
  Grid grid({">GPU", ">GI", ">CI", ">Pid", "Type", ">Memory", "Name"});
  for (const Gpu& gpu : node.gpus) {
    for (const GpuProcess& process : gpu.processes) {
      std::string name = OrDash(process.name);
      if (name.size() > kNameWidth) name = "..." + name.substr(name.size() - kNameWidth + 3);
      grid.Add({fmt::format("{}", gpu.index), OrDash(process.gpu_instance),
                OrDash(process.compute_instance), fmt::format("{}", process.pid),
                std::string(ProcessTypeName(process.type)),
                process.memory ? FormatBytes(*process.memory) : "-", std::move(name)});
    }
  }
  return grid.empty() ? "" : Section("Processes", grid.Text("  ", style), style);
}

// The words of `nvidia-smi topo -m`.
std::string_view ShortName(PciPath path) {
  switch (path) {
    case PciPath::kSameBoard:
      return "PSB";
    case PciPath::kOneSwitch:
      return "PIX";
    case PciPath::kSwitches:
      return "PXB";
    case PciPath::kHostBridge:
      return "PHB";
    case PciPath::kNumaNode:
      return "NODE";
    case PciPath::kSystem:
      break;
  }
  return "SYS";
}

std::string_view Meaning(std::string_view cell) {
  if (cell.starts_with("NV")) return "that many NVLinks";
  if (cell == "PSB") return "on one board";
  if (cell == "PIX") return "through one PCIe switch";
  if (cell == "PXB") return "through several PCIe switches";
  if (cell == "PHB") return "through a PCIe host bridge";
  if (cell == "NODE") return "between host bridges of one NUMA node";
  if (cell == "SYS") return "across NUMA nodes";
  return "not told";
}

std::string LinkCell(const GpuLink& link) {
  if (link.nvlinks.value_or(0) > 0) return fmt::format("NV{}", *link.nvlinks);
  return link.pci_path ? std::string(ShortName(*link.pci_path)) : "?";
}

std::string LinkLegend(const Inventory& node) {
  std::map<std::string, int> pairs;
  bool nvswitch = false;
  for (const GpuLink& link : node.links) {
    ++pairs[LinkCell(link)];
    nvswitch = nvswitch || link.nvswitch;
  }
  std::string legend;
  for (const auto& [cell, count] : pairs) {
    legend += fmt::format("  {:<4}  {} pair{}, {}{}\n", cell, count, count == 1 ? "" : "s",
                          Meaning(cell), nvswitch && cell.starts_with("NV") ? ", by NVSwitch" : "");
  }
  return legend;
}

std::string Links(const Inventory& node, TableStyle style) {
  if (node.links.empty()) return {};
  constexpr std::size_t kMatrixGpusMax = 14;  // More columns don't fit.
  if (node.gpus.size() > kMatrixGpusMax) return Section("Links", LinkLegend(node), style);
  std::map<std::pair<int, int>, std::string> cells;
  for (const GpuLink& link : node.links) {
    cells[{link.a, link.b}] = cells[{link.b, link.a}] = LinkCell(link);
  }
  std::vector<std::string> headings{">GPU"};
  for (const Gpu& gpu : node.gpus) headings.push_back(fmt::format("{}", gpu.index));
  Grid grid(std::move(headings));
  for (const Gpu& row : node.gpus) {
    std::vector<std::string> line{fmt::format("{}", row.index)};
    for (const Gpu& column : node.gpus) {
      const auto cell = cells.find({row.index, column.index});
      line.push_back(cell == cells.end() ? "." : cell->second);
    }
    grid.Add(std::move(line));
  }
  return Section("Links", grid.Text("  ", style) + LinkLegend(node), style);
}

std::string Daemons(const Inventory& node, TableStyle style) {
  Grid grid({">Pid", "Answers", "Servers", "Pipe folder"});
  for (const FoundMpsDaemon& daemon : node.mps_daemons) {
    grid.Add({OrDash(daemon.pid), daemon.answers ? "yes" : "no",
              daemon.servers.empty() ? "-" : fmt::format("{}", fmt::join(daemon.servers, " ")),
              daemon.pipe_directory});
  }
  return grid.empty() ? "" : Section("MPS daemons", grid.Text("  ", style), style);
}

std::string Modes(const Inventory& node, TableStyle style) {
  constexpr std::size_t kIndent = 16;
  std::string body;
  for (const ModeCheck& check : node.modes) {
    std::vector<std::string> lines;
    if (check.gpus.size() == node.gpus.size() && check.available()) {
      lines.emplace_back("yes");
    } else {
      lines.push_back(check.available() ? fmt::format("yes, on GPU {}", Ranges(check.gpus)) : "no");
    }
    for (const std::string& reason : check.reasons) lines.push_back(reason);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string name = i == 0 ? std::string(SharingModeName(check.mode)) : "";
      std::string line = Wrap(lines[i], kIndent);
      if (i == 0 && !check.available()) line = Red(line, style);
      body += fmt::format("  {:<{}}{}\n", name, kIndent - 2, line);
    }
  }
  return Section("Sharing modes here", body, style);
}

std::string Capabilities(const Inventory& node, TableStyle style) {
  Grid grid({"Feature", "Here", "Found by"});
  for (const Capability& capability : node.driver.capabilities) {
    grid.Add({capability.name, capability.available ? "yes" : "no", capability.how});
  }
  return grid.empty() ? "" : Section("Driver", grid.Text("  ", style), style);
}

}  // namespace

std::string InventoryTable(const Inventory& node, TableStyle style) {
  std::string text = Header(node, style);
  if (node.gpus.empty()) text += "\nno GPU\n";
  return text + Gpus(node, style) + Profiles(node, style) + Instances(node, style) +
         Processes(node, style) + Links(node, style) + Daemons(node, style) + Modes(node, style) +
         Capabilities(node, style);
}

}  // namespace sublet
