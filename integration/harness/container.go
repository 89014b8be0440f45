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

// Container is a chroot with a host name, processes, mounts and a network of its own. It shows the files of
// this machine; changes go to a layer on top, which is dropped with the container. Packages are installed
// in it, and services run in it, as on a machine.
type Container struct {
	Name string
	Pid  string // of its first process, as seen from this machine
	t    testing.TB
	root *os.Root // its files; symbolic links cannot lead out of it
	stop func()   // ends the container and all its processes
}

// containerScript mounts the files of the container and stays in it. It prints its process id only when it is
// inside: before that, /proc/PID/root would be the root of this machine.
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

// NewContainer makes a container that ends with the test. It needs root.
func NewContainer(t testing.TB, name string) *Container {
	t.Helper()
	args := strings.Fields("--mount --propagation=private --uts --net --pid --fork --kill-child sh -c")
	cmd := exec.Command("unshare", append(args, containerScript, "sh", t.TempDir(), name)...)
	hold, err := cmd.StdinPipe() // the container ends when this is closed, also when the test process dies
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
		hold.Close()
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
	if sameFolder(t, root, "/") {
		t.Fatalf("the container %s has the root folder of this machine", name)
	}
	c := &Container{Name: name, Pid: pid, t: t, root: root, stop: stop}
	c.Run("ip", "link", "set", "lo", "up").OK(t)
	return c
}

// sameFolder reports whether root is the folder path.
func sameFolder(t testing.TB, root *os.Root, path string) bool {
	t.Helper()
	a, err := root.Stat(".")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(a, b)
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

// Start runs a command in the container until the test ends.
func (c *Container) Start(env []string, args ...string) *Process {
	c.t.Helper()
	args = c.enterCommand(args...)
	p := Start(c.t, append([]string{"HOME=/root", "SSH_AUTH_SOCK="}, env...), args[0], args[1:]...)
	// The container is stopped first, and ends the process: nsenter would not pass the signal of
	// Process.Stop on.
	c.t.Cleanup(c.stop)
	return p
}

// Connect connects two containers by a pair of interfaces, which are up and have no address: own in c,
// theirs in other.
func (c *Container) Connect(own string, other *Container, theirs string) {
	c.t.Helper()
	ip := func(pid, command string) {
		c.t.Helper()
		args := append([]string{"--target", pid, "--net"}, strings.Fields(command)...)
		Run(c.t, nil, nil, "nsenter", args...).OK(c.t)
	}
	ip(c.Pid, fmt.Sprintf("ip link add %s type veth peer name %s netns %s", own, theirs, other.Pid))
	ip(c.Pid, fmt.Sprintf("ip link set %s up", own))
	ip(other.Pid, fmt.Sprintf("ip link set %s up", theirs))
}

// Put writes a file into the container. It creates missing folders.
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

// Packages builds Debian packages of a version for an architecture, and returns their files by package.
// Without names it builds all packages.
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
