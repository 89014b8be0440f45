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

// python is Debian's interpreter, which has the packages Paramiko and AsyncSSH.
const python = "/usr/bin/python3"

// runStep runs one step of a script in testdata, and returns its output.
func runStep(t *testing.T, script string, args ...string) string {
	t.Helper()
	args = append([]string{"-W", "ignore", filepath.Join("testdata", script)}, args...)
	out := harness.Run(t, nil, nil, python, args...).OK(t)
	if !strings.HasSuffix(out, "done\n") {
		t.Errorf("got %q, want done at the end", out)
	}
	return out
}

// paramikoStory uses Paramiko as a client.
func paramikoStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	known := filepath.Join(t.TempDir(), "known_hosts")
	// through runs a step with a connection to the proxy's address or with a ProxyCommand.
	through := func(t *testing.T, route, name string) string {
		t.Helper()
		echo := startEcho(t, "tcp", "127.0.0.1:0")
		args := []string{name, o.account.Username, o.nodes[0], o.profile, known, route, echo, t.TempDir()}
		return runStep(t, "paramiko_story.py", args...)
	}
	step := func(t *testing.T, name string) string {
		t.Helper()
		return through(t, o.proxyCommand(t, o.nodes[0]), name)
	}
	writeKnownHosts(t, o, known)
	for _, s := range []struct {
		step, what string
		shows      []harness.Feature
	}{
		{
			"run",
			"runs a command with separate output, errors and exit status",
			[]harness.Feature{harness.Certificate, harness.Exec, harness.ByCommand},
		},
		{"shell", "invokes a shell on a terminal", []harness.Feature{harness.Shell}},
		{"sftp", "sftp: mkdir, put, rename, chmod, list, get, remove", []harness.Feature{harness.SFTP}},
		{"local", "opens direct-tcpip channels", []harness.Feature{harness.Local}},
		{"remote", "forwards a port that the node has chosen", []harness.Feature{harness.Remote}},
	} {
		e.Supports(t, s.what, func(t *testing.T) { step(t, s.step) }, s.shows...)
	}
	e.Supports(t, "reaches a node through a channel of the proxy, without tsh", func(t *testing.T) {
		through(t, o.Proxy, "jump")
	}, harness.ByJump)
	e.Lacks(
		t,
		"a key without its certificate, or a password, raises AuthenticationException",
		func(t *testing.T) {
			for _, out := range []string{step(t, "bare key"), through(t, o.Proxy, "password")} {
				if !strings.Contains(out, "refused:") {
					t.Errorf("got %q, want a refusal", out)
				}
			}
		},
	)
	e.AddNote(
		"Paramiko does not verify certificates of hosts. Its known hosts must have the host key of\n" +
			"each node. A key that was not compared with the host's certificate is trusted on first\n" +
			"use. Pass only the one key, with `allow_agent=False` and `look_for_keys=False`: before\n" +
			"each further attempt Paramiko requests the authentication service again, and the node then\n" +
			"ends the connection.",
	)
}

// writeKnownHosts writes the host keys of the node and of the proxy, taken from certificates that were
// verified.
func writeKnownHosts(t *testing.T, o *clientFixture, file string) {
	t.Helper()
	proxy := dialProxy(t, o)
	var lines strings.Builder
	host, port, _ := strings.Cut(o.Proxy, ":")
	fmt.Fprintf(&lines, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(proxy.host.Key))
	node := dialNode(t, o, proxy.Client)
	fmt.Fprintf(&lines, "%s %s", o.nodes[0], ssh.MarshalAuthorizedKey(node.host.Key))
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// asyncsshStory uses AsyncSSH as a client.
func asyncsshStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	step := func(t *testing.T, name, route string) {
		t.Helper()
		dir := sharedDir(t)
		startEcho(t, "unix", filepath.Join(dir, "server"))
		echo := startEcho(t, "tcp", "127.0.0.1:0")
		args := []string{name, o.account.Username, o.nodes[0], o.profile, route, echo, dir}
		runStep(t, "asyncssh_story.py", args...)
	}
	for _, s := range []struct {
		step, what string
		shows      []harness.Feature
	}{
		{
			"run",
			"runs a command with separate output, errors and exit status; verifies the host's certificate",
			[]harness.Feature{harness.Certificate, harness.Exec, harness.ByCommand},
		},
		{"shell", "a shell on a terminal", []harness.Feature{harness.Shell}},
		{"sftp", "sftp: mkdir, put, rename, symlink, get, remove", []harness.Feature{harness.SFTP}},
		{"scp", "its own scp", []harness.Feature{harness.SCP}},
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
