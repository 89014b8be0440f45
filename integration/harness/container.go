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

// Container is a machine of its own within this one: this machine's files, seen through a layer that takes
// every change and goes with the room; a host name, processes and a network of its own. Packages are
// installed in it and services run as they would be on a machine.
type Container struct {
	Name string
	Pid  string // of the room's first process, as this machine sees it
	t    testing.TB
	root *os.Root // its files, and nothing outside them, whatever its links say
	stop func()
}

// containerScript makes the room's view of the files and stays in it. It says that it stands only from
// inside: until then, what goes by its process id would reach this machine's own files.
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

// NewContainer makes a room that goes with the story. It needs root.
func NewContainer(t testing.TB, name string) *Container {
	t.Helper()
	cmd := exec.Command(
		"unshare",
		"--mount",
		"--propagation=private",
		"--uts",
		"--net",
		"--pid",
		"--fork",
		"--kill-child",
		"sh",
		"-c",
		containerScript,
		"sh",
		t.TempDir(),
		name,
	)
	hold, err := cmd.StdinPipe() // the room goes when this end does, however the story ends
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
	end := sync.OnceFunc(func() {
		hold.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, as it should be
	})
	t.Cleanup(end)
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	if !ok {
		t.Fatalf("the room %s did not stand up: %q, %v", name, line, err)
	}
	root, err := os.OpenRoot(filepath.Join("/proc", pid, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if sameFolder(t, root, "/") {
		t.Fatalf("the room %s has this machine's own files", name)
	}
	r := &Container{Name: name, Pid: pid, t: t, root: root, stop: end}
	r.Run("ip", "link", "set", "lo", "up").OK(t)
	return r
}

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

// enterCommand puts a command into the room.
func (r *Container) enterCommand(args ...string) []string {
	return append(
		[]string{
			"nsenter",
			"--target",
			r.Pid,
			"--mount",
			"--uts",
			"--net",
			"--pid",
			"--root",
			"--wdns=/root",
			"--",
		},
		args...)
}

// Run runs a command in the room to its end.
func (r *Container) Run(args ...string) Result { return r.RunWith(nil, args...) }

// RunWith is Run with a standard input.
func (r *Container) RunWith(stdin io.Reader, args ...string) Result {
	r.t.Helper()
	args = r.enterCommand(args...)
	return Run(r.t, []string{"HOME=/root", "SSH_AUTH_SOCK="}, stdin, args[0], args[1:]...)
}

// Start runs a command in the room until the story ends.
func (r *Container) Start(env []string, args ...string) *Process {
	r.t.Helper()
	args = r.enterCommand(args...)
	p := Start(r.t, append([]string{"HOME=/root", "SSH_AUTH_SOCK="}, env...), args[0], args[1:]...)
	r.t.Cleanup(
		r.stop,
	) // before the process is asked to stop: nsenter passes no signal on, and the room takes everything with it
	return p
}

// Connect joins two rooms: an interface in each, both up and without an address.
func (r *Container) Connect(mine string, other *Container, theirs string) {
	r.t.Helper()
	for _, args := range [][]string{
		{"--target", r.Pid, "--net", "ip", "link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", other.Pid},
		{"--target", r.Pid, "--net", "ip", "link", "set", mine, "up"},
		{"--target", other.Pid, "--net", "ip", "link", "set", theirs, "up"},
	} {
		Run(r.t, nil, nil, "nsenter", args...).OK(r.t)
	}
}

// Put writes a file into the room.
func (r *Container) Put(name string, data []byte, mode os.FileMode) {
	r.t.Helper()
	name = strings.TrimPrefix(name, "/")
	err := r.root.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = r.root.WriteFile(name, data, mode)
	}
	if err == nil {
		err = r.root.Chmod(name, mode)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// Packages builds Debian packages of a version for an architecture, all if none is named, and returns the
// files by package.
func Packages(t testing.TB, version, arch string, names ...string) map[string]string {
	t.Helper()
	if len(names) == 0 {
		names = []string{"threshold", "threshold-node", "threshold-tsh"}
	}
	root := filepath.Dir(filepath.Dir(Bin(t, "tsh")))
	if out, err := Build("make", "-C", root, "deb", "VERSION="+version, "DEB_ARCHES="+arch, "DEB_PACKAGES="+strings.Join(names, " ")); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	debs := map[string]string{}
	for _, name := range names {
		debs[name] = filepath.Join(
			root,
			"dist",
			fmt.Sprintf("%s_%s_%s.deb", name, strings.TrimPrefix(version, "v"), arch),
		)
	}
	return debs
}
