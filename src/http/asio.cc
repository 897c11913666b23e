// Asio and Beast compiled from their headers, here alone: everybody else sees only declarations,
// which halves the time that a file with a coroutine takes to build.

#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
