//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/integration/harness"
)

// python is Debian's, with its packages.
const python = "/usr/bin/python3"

// runStep runs one step of a script of testdata.
func runStep(t *testing.T, script string, args ...string) string {
	t.Helper()
	out := harness.Run(t, nil, nil, python, append([]string{"-W", "ignore", filepath.Join("testdata", script)}, args...)...).
		OK(t)
	if !strings.HasSuffix(out, "done\n") {
		t.Errorf("got %q, want the step done", out)
	}
	return out
}

func paramikoStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	known := filepath.Join(t.TempDir(), "known_hosts")
	by := func(t *testing.T, way, name string) string {
		t.Helper()
		return runStep(
			t,
			"paramiko_story.py",
			name,
			o.account.Username,
			o.nodes[0],
			o.profile,
			known,
			way,
			startEcho(t, "tcp", "127.0.0.1:0"),
			t.TempDir(),
		)
	}
	step := func(t *testing.T, name string) string { t.Helper(); return by(t, o.proxyCommand(t, o.nodes[0]), name) }
	writeKnownHosts(t, o, known)
	for _, s := range []struct {
		step, what string
		shows      []harness.Feature
	}{
		{"run", "runs a command, with its exit status and both outputs apart", []harness.Feature{harness.Certificate, harness.Exec, harness.ByCommand}},
		{"shell", "invokes a shell on a terminal", []harness.Feature{harness.Shell}},
		{"sftp", "sftp: mkdir, put, rename, chmod, list, get, remove", []harness.Feature{harness.SFTP}},
		{"local", "opens direct-tcpip channels", []harness.Feature{harness.Local}},
		{"remote", "forwards a port of the node that the node chose", []harness.Feature{harness.Remote}},
	} {
		e.Supports(t, s.what, func(t *testing.T) { step(t, s.step) }, s.shows...)
	}
	e.Supports(t, "reaches a node over a channel of the proxy, without tsh", func(t *testing.T) {
		by(t, o.Proxy, "jump")
	}, harness.ByJump)
	e.Lacks(
		t,
		"a key without its certificate, or a password, raises AuthenticationException",
		func(t *testing.T) {
			for _, out := range []string{step(t, "bare key"), by(t, o.Proxy, "password")} {
				if !strings.Contains(out, "refused:") {
					t.Errorf("got %q, want a refusal", out)
				}
			}
		},
	)
	e.AddNote(
		"Paramiko checks no certificates of hosts: it must be given each bare host key, in its known hosts. A key that was not compared with the certificate's is trust at first sight. " +
			"Give it the one key, with `allow_agent=False` and `look_for_keys=False`: before each further try Paramiko asks for the authentication service anew, and the node then ends the connection.",
	)
}

// writeKnownHosts writes the bare host keys of the machine and of the proxy, each taken from a certificate
// that was verified.
func writeKnownHosts(t *testing.T, o *clientFixture, file string) {
	t.Helper()
	front := dialProxy(t, o)
	var lines strings.Builder
	host, port, _ := strings.Cut(o.Proxy, ":")
	fmt.Fprintf(&lines, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(front.host.Key))
	fmt.Fprintf(&lines, "%s %s", o.nodes[0], ssh.MarshalAuthorizedKey(dialNode(t, o, front.Client).host.Key))
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func asyncsshStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	step := func(t *testing.T, name, way string) {
		t.Helper()
		dir := sharedDir(t)
		startEcho(t, "unix", filepath.Join(dir, "behind"))
		runStep(
			t,
			"asyncssh_story.py",
			name,
			o.account.Username,
			o.nodes[0],
			o.profile,
			way,
			startEcho(t, "tcp", "127.0.0.1:0"),
			dir,
		)
	}
	for _, s := range []struct {
		step, what string
		shows      []harness.Feature
	}{
		{"run", "runs a command, with its exit status and both outputs apart; verifies the host's certificate", []harness.Feature{harness.Certificate, harness.Exec, harness.ByCommand}},
		{"shell", "a shell on a terminal", []harness.Feature{harness.Shell}},
		{"sftp", "sftp: mkdir, put, rename, symlink, get, remove", []harness.Feature{harness.SFTP}},
		{"scp", "scp of its own", []harness.Feature{harness.SCP}},
		{"many", "30 commands at once on one connection", []harness.Feature{harness.Shared}},
		{"local", "forwards a local port", []harness.Feature{harness.Local}},
		{"remote", "forwards a port of the node", []harness.Feature{harness.Remote}},
		{"dynamic", "serves SOCKS", []harness.Feature{harness.Dynamic}},
		{"sockets", "forwards Unix sockets both ways", []harness.Feature{harness.Sockets}},
	} {
		e.Supports(
			t,
			s.what,
			func(t *testing.T) { step(t, s.step, o.proxyCommand(t, o.nodes[0])) },
			s.shows...)
	}
	e.Supports(
		t,
		"reaches a node through the proxy as its tunnel, without tsh",
		func(t *testing.T) { step(t, "jump", o.Proxy) },
		harness.ByJump,
	)
	e.Supports(
		t,
		"refuses a host whose authority it does not trust",
		func(t *testing.T) { step(t, "untrusted", o.proxyCommand(t, o.nodes[0])) },
	)
}
