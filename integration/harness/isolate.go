package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostNetworkEnv has the descriptor of the machine's own network, in a process that Alone has put into
// another.
const hostNetworkEnv = "THRESHOLD_STORIES_OUTSIDE"

// hostNetworkPrefix is how a command gets back to the machine's own network, where there is another: for
// builds, which may fetch modules.
var hostNetworkPrefix []string

// Isolate begins the process again in a network and in mounts of its own: what stories make there goes when
// the process does, however it ends, and no two runs meet. Without root there is only the machine's own.
// TestMain calls it first.
func Isolate() error {
	if fd, again := os.LookupEnv(hostNetworkEnv); again {
		hostNetworkPrefix = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%s", os.Getpid(), fd), "--"}
		return os.Unsetenv(hostNetworkEnv)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread() // namespaces are a thread's; the one that execs becomes the process
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open the machine's network: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a network and mounts for the stories: %w", err)
	}
	const script = `set -e
mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip link set lo up`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("make a network and mounts for the stories: %w: %s", err, out)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), hostNetworkEnv+"="+strconv.Itoa(fd)))
}

// Build runs a command that builds something, with the machine's own network.
func Build(name string, args ...string) ([]byte, error) {
	args = append(append(append([]string{}, hostNetworkPrefix...), name), args...)
	return exec.Command(args[0], args[1:]...).CombinedOutput()
}
