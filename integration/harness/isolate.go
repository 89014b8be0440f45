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

// hostNetworkEnv is an environment variable of a process that Isolate has executed again. Its value is the
// number of an open file descriptor of the machine's network namespace.
const hostNetworkEnv = "THRESHOLD_TEST_HOST_NETWORK"

// hostNetworkPrefix is put in front of a command that needs the machine's network namespace, such as a build,
// which may fetch modules. It is empty when the process is not isolated.
var hostNetworkPrefix []string

// Isolate gives the test process network and mount namespaces of its own, so that the interfaces and mounts
// that tests create disappear with the process, however it ends, and two runs at once do not disturb each
// other. TestMain calls it first.
//
// It creates the namespaces and executes the program of this process again, because only then are all threads
// in them. So on success the first call does not return; in the new program Isolate is called again, and
// returns nil. Without root it does nothing and returns nil.
func Isolate() error {
	if fd, isSecondCall := os.LookupEnv(hostNetworkEnv); isSecondCall {
		hostNetworkPrefix = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%s", os.Getpid(), fd), "--"}
		return os.Unsetenv(hostNetworkEnv)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// Unshare is for the calling thread, and exec keeps only the thread that calls it.
	runtime.LockOSThread()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0) // stays open over exec
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

// Build runs a command that builds something, and returns its output. It runs in the machine's network
// namespace, also after Isolate, because a build may fetch modules.
func Build(name string, args ...string) ([]byte, error) {
	args = append(append(append([]string{}, hostNetworkPrefix...), name), args...)
	return exec.Command(args[0], args[1:]...).CombinedOutput()
}
