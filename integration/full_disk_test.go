//go:build integration

package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// The disk of auth fills up while an administrator works. The error says so, reads are still answered, and
// nothing that was stored is lost.
func TestAFullDiskAtAuthRefusesClearlyAndLosesNothing(t *testing.T) {
	disk := smallDisk(t, "256m")
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServerIn(t, disk, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "node-1")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	role := func(name string) string {
		text := emptyRole(name) + "    - {nodes: {env: " + strings.Repeat("x", 400) + "}, actions: [list]}\n"
		return harness.WriteFile(t, t.TempDir(), "role.yaml", text)
	}
	c.Tsh("apply", "-f", role("before")).OK(t)

	fill(t, disk)
	var refused harness.Result
	for i := 0; refused.Code == 0 && i < 2000; i++ { // the log file is allocated in advance and used up first
		refused = c.Tsh("apply", "-f", role("during"))
	}
	refused.Refused(t, "full")
	if out := c.Tsh("get", "roles").OK(t); !strings.Contains(out, "before") {
		t.Errorf("got %q, want reads answered", out)
	}

	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
	if out := c.Tsh("get", "roles").OK(t); !strings.Contains(out, "before") {
		t.Errorf("got %q, want what was stored before", out)
	}
	c.Tsh("apply", "-f", role("after")).OK(t)
}

// The disk of a node is full. No session starts, because its audit event could not be stored, and the user
// sees why.
func TestAFullDiskAtANodeRefusesSessionsClearly(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	disk := smallDisk(t, "8m")
	harness.StartNodeIn(t, disk, proxy, c.Token("node"), "small-disk")
	c.Tsh("ssh", "small-disk", "true").OK(t)
	// Events that auth confirms later would free space.
	harness.Eventually(t, "auth has confirmed all events of the node", func() bool {
		left, err := os.ReadDir(filepath.Join(disk, "spool"))
		return err == nil && len(left) == 0
	})

	fill(t, disk)
	if r := c.Tsh("ssh", "small-disk", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "disk") {
		t.Errorf("got %+v, want a refusal that names the disk", r)
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	c.Tsh("ssh", "small-disk", "true").OK(t)
}

// smallDisk mounts a file system of the size until the test ends. It needs root.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	harness.AsRoot(t, "mount", "-t", "tmpfs", "-o", "mode=0700,size="+size, "tmpfs", dir)
	t.Cleanup(func() { harness.AsRoot(t, "umount", "-l", dir) })
	harness.AsRoot(t, "chown", harness.Account(t), dir)
	return dir
}

// fill writes a file until no byte is free.
func fill(t *testing.T, disk string) {
	t.Helper()
	f, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 1 << 12, 1} {
		chunk := make([]byte, size)
		for {
			if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}
