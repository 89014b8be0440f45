//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/integration/harness"
)

// Who reads all memory of a proxy finds no private key of the CA or of a node, and nothing that a user
// typed in a session.
func TestAProxysMemoryHoldsNoForeignKeyAndNoSessionText(t *testing.T) {
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), "")
	c := harness.NewClient(t)
	alice := c.FirstLogin(s, harness.Alice())
	token := c.Token("proxy", "--public-name", "127.0.0.1")
	proxy := harness.StartProxy(t, second, s.AuthAddr(t), token, "proxy-2")
	node := harness.StartNode(t, second, c.Token("node"), "far-node")

	// The session stays open while the memory is read, so that nothing was freed yet.
	marker := randomText()
	onSecond := harness.NewClient(t)
	onSecond.LoginAt(second, s, alice)
	cmd := onSecond.Command("ssh", "far-node", "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	session := harness.StartCmd(t, cmd)
	if _, err := stdin.Write([]byte(marker + "\n")); err != nil {
		t.Fatal(err)
	}
	session.WaitFor(marker)

	proxyMemory := memory(t, proxy.Cmd.Process.Pid)
	nodeMemory := memory(t, node.Process.Cmd.Process.Pid)
	authMemory := memory(t, s.Process.Cmd.Process.Pid)
	for name, secret := range map[string][]byte{
		"what was typed":      []byte(marker),
		"the node's host key": hostSeed(t, node.Dir),
	} {
		if bytes.Contains(proxyMemory, secret) {
			t.Errorf("the proxy's memory holds %s", name)
		}
		if !bytes.Contains(nodeMemory, secret) {
			t.Errorf("the node's memory does not hold %s, so the search proves nothing", name)
		}
	}
	all := authorities(t, onSecond)
	if found := all.in(proxyMemory); len(found) != 0 {
		t.Errorf("the proxy's memory holds the private keys of %v", found)
	}
	found := all.in(authMemory)
	for _, name := range []string{"user-SSH", "host-SSH", "user-X.509", "service-X.509", "rules"} {
		if !slices.Contains(found, name) {
			t.Errorf("got %v in auth's memory, want %s too, or the search proves nothing", found, name)
		}
	}
	stdin.Close()
	if err := session.Wait(); err != nil {
		t.Errorf("session: %v", err)
	}
}

func randomText() string {
	var b [24]byte
	_, _ = rand.Read(b[:])
	return "typed-" + hex.EncodeToString(b[:])
}

// memory is all memory that a process can read and write.
func memory(t *testing.T, pid int) []byte {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var all []byte
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatalf("maps: %q: %v", lines.Text(), err)
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		// Pages that were never used cannot be read. They hold nothing.
		part := make([]byte, to-from)
		n, _ := mem.ReadAt(part, int64(from))
		all = append(all, part[:n]...)
	}
	if len(all) < 1<<20 {
		t.Fatalf("got %d bytes of memory, want a process's worth", len(all))
	}
	return all
}

// hostSeed is the seed of the node's Ed25519 host key, which is in its folder.
func hostSeed(t *testing.T, dir string) []byte {
	t.Helper()
	var seed []byte
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || seed != nil {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if key, err := ssh.ParseRawPrivateKey(pem.EncodeToMemory(block)); err == nil {
				if k, ok := key.(ed25519.PrivateKey); ok {
					seed = k.Seed()
				}
			}
		}
		return nil
	})
	if err != nil || seed == nil {
		t.Fatalf("got %v, want the node's host key below %s", err, dir)
	}
	return seed
}
