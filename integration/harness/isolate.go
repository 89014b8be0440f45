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

// hostNetworkEnv is set in a process that Isolate has put into a network namespace of its own. It has the
// descriptor of the machine's network namespace.
const hostNetworkEnv = "THRESHOLD_TEST_HOST_NETWORK"

// hostNetworkPrefix is put in front of a command that needs the machine's network namespace, such as a build,
// which may fetch modules. It is empty when the process is not isolated.
var hostNetworkPrefix []string

// Isolate executes the process again in network and mount namespaces of its own. What tests create there
// disappears with the process, however it ends, and two runs do not disturb each other. Without root it does
// nothing. TestMain calls it first.
func Isolate() error {
	if fd, again := os.LookupEnv(hostNetworkEnv); again {
		hostNetworkPrefix = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%s", os.Getpid(), fd), "--"}
		return os.Unsetenv(hostNetworkEnv)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread() // a namespace belongs to a thread; the thread that calls exec becomes the process
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open the machine's network: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make namespaces for the tests: %w", err)
	}
	const script = `set -e
mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip link set lo up`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("make namespaces for the tests: %w: %s", err, out)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), hostNetworkEnv+"="+strconv.Itoa(fd)))
}

// Build runs a command that builds something, in the machine's network namespace.
func Build(name string, args ...string) ([]byte, error) {
	args = append(append(append([]string{}, hostNetworkPrefix...), name), args...)
	return exec.Command(args[0], args[1:]...).CombinedOutput()
}
