// sim/driver/mps_wire.h
//
// The control daemon's socket, from both ends: lines of text over a Unix stream socket.
//
//   client PID DEVICE-UUID INDEX
//                           ->  joined SERVER-INDEX SERVER-PID PERCENT LIMIT-BYTES (-1: none)
//                               refused CODE
//                               The client is one for as long as it keeps the connection.
//   command WORDS...        ->  the answer's text, then the end of the connection
//
// This is the simulation's own language; what NVIDIA's programs say to each other is not known.
//
// Thread safety: no shared state.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sublet::sim {

// CUDA_MPS_PIPE_DIRECTORY, or what stands for it.
std::string MpsPipeDirectory();
// CUDA_MPS_LOG_DIRECTORY, or what stands for it.
std::string MpsLogDirectory();

// A listening socket at `path`, or -1.
int ListenAt(const std::string& path, unsigned mode);
// Connected to it, or -1.
int ConnectTo(const std::string& path);
bool SendText(int socket, std::string_view text);
// Until the line ends; empty where none comes in time or at all.
std::string ReadLine(int socket, int timeout_ms);
// Until the connection ends; nothing where it doesn't in time.
std::optional<std::string> ReadAll(int socket, int timeout_ms);

}  // namespace sublet::sim
