//go:build integration

package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// Auth's disk fills up while an administrator works. The refusal says so, reading goes on, and nothing that
// was kept is lost.
func TestAFullDiskAtAuthRefusesClearlyAndLosesNothing(t *testing.T) {
	disk := smallDisk(t, "256m")
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServerIn(t, disk, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "node-1")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	role := func(name string) string {
		text := "kind: role\nversion: v1\nmetadata: {name: " + name + "}\nspec:\n  allow:\n    - {nodes: {env: \"" + strings.Repeat(
			"x",
			400,
		) + "\"}, actions: [list]}\n"
		return harness.WriteFile(t, t.TempDir(), "role.yaml", text)
	}
	c.Tsh("apply", "-f", role("before")).OK(t)

	fill(t, disk)
	var refused harness.Result
	for i := 0; refused.Code == 0 && i < 2000; i++ { // what raft-wal reserved ahead is used up first
		refused = c.Tsh("apply", "-f", role("during"))
	}
	refused.Refused(t, "full")
	if out := c.Tsh("get", "roles").OK(t); !strings.Contains(out, "before") {
		t.Errorf("got %q, want reading to go on", out)
	}

	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
	if out := c.Tsh("get", "roles").OK(t); !strings.Contains(out, "before") {
		t.Errorf("got %q, want what was kept before", out)
	}
	c.Tsh("apply", "-f", role("after")).OK(t)
}

// A node's disk is full: no session starts that could not be accounted for, and the person reads why.
func TestAFullDiskAtANodeRefusesSessionsClearly(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	disk := smallDisk(t, "8m")
	harness.StartNodeIn(t, disk, proxy, c.Token("node"), "small-disk")
	c.Tsh("ssh", "small-disk", "true").OK(t)
	for end := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) { // events that auth takes later would make room
		if left, err := os.ReadDir(filepath.Join(disk, "spool")); err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("events wait on the node after 10 s")
		}
	}

	fill(t, disk)
	if r := c.Tsh("ssh", "small-disk", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "disk") {
		t.Errorf("got %+v, want a refusal that names the disk", r)
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	c.Tsh("ssh", "small-disk", "true").OK(t)
}

// smallDisk mounts a file system of the size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	harness.AsRoot(t, "mount", "-t", "tmpfs", "-o", "mode=0700,size="+size, "tmpfs", dir)
	t.Cleanup(func() { harness.AsRoot(t, "umount", "-l", dir) })
	harness.AsRoot(t, "chown", harness.Account(t), dir)
	return dir
}

// fill leaves no byte free.
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
