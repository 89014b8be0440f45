package harness

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Container is a chroot with a host name, processes, mounts and a network of its own, in which packages can
// be installed and services run as on a machine. It shows the files of this machine. Changes go to a layer on
// top, which is dropped when the container ends, so the machine's files stay as they are.
type Container struct {
	Name string
	Pid  string // of its first process, as this machine numbers it
	t    testing.TB
	root *os.Root // its files; symbolic links cannot lead out of it
	stop func()   // ends the container and all its processes
}

// containerScript makes the root folder of the container in the folder $1, gives the container the host name
// $2, and enters it. Inside it prints "pid" and its process id, and then waits until its standard input is
// closed, which ends the container. It prints only when it is inside, because before that /proc/PID/root, by
// which NewContainer reaches the files, would be the root of this machine.
const containerScript = `set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" overlay "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
for dir in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$1/root/$dir"; done
chmod 755 "$1/root/run"
hostname "$2"
read -r pid rest </proc/self/stat
exec chroot "$1/root" sh -c 'echo "pid $0"; exec cat >/dev/null' "$pid"`

// NewContainer makes a container and returns it when it can be used. Its network has only the loopback
// interface. It ends with the test. NewContainer needs root.
func NewContainer(t testing.TB, name string) *Container {
	t.Helper()
	args := strings.Fields("--mount --propagation=private --uts --net --pid --fork --kill-child sh -c")
	cmd := exec.Command("unshare", append(args, containerScript, "sh", t.TempDir(), name)...)
	// The container ends when this pipe is closed. The kernel closes it when the test process dies.
	keepRunning, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		keepRunning.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports that it was killed
	})
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	if !ok {
		t.Fatalf("the container %s did not start: %q, %v", name, line, err)
	}
	root, err := os.OpenRoot(filepath.Join("/proc", pid, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if sameFolder(t, root, "/") { // else tests would change files of this machine
		t.Fatalf("the container %s has the root folder of this machine", name)
	}
	c := &Container{Name: name, Pid: pid, t: t, root: root, stop: stop}
	c.Run("ip", "link", "set", "lo", "up").OK(t)
	return c
}

// sameFolder reports whether root is the folder path.
func sameFolder(t testing.TB, root *os.Root, path string) bool {
	t.Helper()
	rootInfo, err := root.Stat(".")
	if err != nil {
		t.Fatal(err)
	}
	pathInfo, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(rootInfo, pathInfo)
}

// enterCommand is the command that runs args in the container.
func (c *Container) enterCommand(args ...string) []string {
	enter := strings.Fields("nsenter --target " + c.Pid + " --mount --uts --net --pid --root --wdns=/root --")
	return append(enter, args...)
}

// Run runs a command in the container to its end.
func (c *Container) Run(args ...string) Result { return c.RunWith(nil, args...) }

// RunWith is Run with a standard input.
func (c *Container) RunWith(stdin io.Reader, args ...string) Result {
	c.t.Helper()
	args = c.enterCommand(args...)
	return Run(c.t, []string{"HOME=/root", "SSH_AUTH_SOCK="}, stdin, args[0], args[1:]...)
}

// Start starts a command in the container, with further environment variables in env. The command is killed
// with the container when the test ends.
func (c *Container) Start(env []string, args ...string) *Process {
	c.t.Helper()
	args = c.enterCommand(args...)
	p := Start(c.t, append([]string{"HOME=/root", "SSH_AUTH_SOCK="}, env...), args[0], args[1:]...)
	// Cleanup functions run in reverse order, so this stops the container before Start's own cleanup stops
	// the process: that would only signal nsenter, which does not pass the signal on to the command.
	c.t.Cleanup(c.stop)
	return p
}

// Connect connects two containers by a pair of network interfaces: own is the name of the one in c, theirs
// the name of the one in other. Both are up and have no address.
func (c *Container) Connect(own string, other *Container, theirs string) {
	c.t.Helper()
	// Only the network namespace is entered: other.Pid is a number of this machine's processes.
	inNetworkOf := func(pid, command string) {
		c.t.Helper()
		args := append([]string{"--target", pid, "--net"}, strings.Fields(command)...)
		Run(c.t, nil, nil, "nsenter", args...).OK(c.t)
	}
	inNetworkOf(c.Pid, fmt.Sprintf("ip link add %s type veth peer name %s netns %s", own, theirs, other.Pid))
	inNetworkOf(c.Pid, fmt.Sprintf("ip link set %s up", own))
	inNetworkOf(other.Pid, fmt.Sprintf("ip link set %s up", theirs))
}

// Put writes a file into the container and creates missing folders. name is an absolute path in the
// container; a symbolic link there cannot lead to a file of this machine.
func (c *Container) Put(name string, data []byte, mode os.FileMode) {
	c.t.Helper()
	name = strings.TrimPrefix(name, "/")
	err := c.root.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = c.root.WriteFile(name, data, mode)
	}
	if err == nil {
		err = c.root.Chmod(name, mode)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// Packages builds Debian packages with this version for the architecture arch, and returns the path of each
// file by the name of its package. Without names it builds all three packages.
func Packages(t testing.TB, version, arch string, names ...string) map[string]string {
	t.Helper()
	if len(names) == 0 {
		names = []string{"threshold", "threshold-node", "threshold-tsh"}
	}
	root := filepath.Dir(filepath.Dir(Bin(t, "tsh")))
	packages := "DEB_PACKAGES=" + strings.Join(names, " ")
	out, err := Build("make", "-C", root, "deb", "VERSION="+version, "DEB_ARCHES="+arch, packages)
	if err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	debs := map[string]string{}
	for _, name := range names {
		file := fmt.Sprintf("%s_%s_%s.deb", name, strings.TrimPrefix(version, "v"), arch)
		debs[name] = filepath.Join(root, "dist", file)
	}
	return debs
}
