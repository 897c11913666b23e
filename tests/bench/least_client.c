// least_client SOCKET PROGRAM: the least that a program can do that asks a daemon before it becomes
// another one. It is linked statically, asks one question, looks at nothing of the answer, and
// executes PROGRAM.
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char** environ;

int main(int argc, char** argv) {
  static const char kQuestion[] = "GET /v1/health HTTP/1.1\r\nHost: sublet\r\n\r\n";
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char answer[4096];
  char* words[2];
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0) return 3;
  if (write(fd, kQuestion, sizeof kQuestion - 1) < 0) return 4;
  if (read(fd, answer, sizeof answer) <= 0) return 5;
  words[0] = argv[2];
  words[1] = NULL;
  execve(argv[2], words, environ);
  return 6;
}
