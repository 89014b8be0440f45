//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// puttyStory uses PuTTY's programs. The key is converted and has the certificate in its file, and the
// cluster is a trusted host CA.
func puttyStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	p := newPutty(t, o)
	e.Supports(
		t,
		"puttygen puts the key and, with --certificate, the certificate into one file",
		func(t *testing.T) {
			out := harness.Run(t, p.env, nil, "puttygen", p.key, "-O", "cert-info").OK(t)
			if !strings.Contains(out, "alice@example.com") || !strings.Contains(out, o.account.Username) {
				t.Errorf("got %q, want the user and the account", out)
			}
		},
		harness.Certificate,
	)
	e.Supports(t, "plink: a command with its exit status, and binary input and output", func(t *testing.T) {
		r := harness.Run(t, p.env, nil, "plink", p.args(o.target(), "id -un; exit 4")...)
		if strings.TrimSpace(r.Stdout) != o.account.Username || r.Code != 4 {
			t.Errorf("got %+v, want the account and 4", r)
		}
		file := filepath.Join(p.dir, "stdin")
		data := writeRandomFile(t, file, 2<<20)
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		r = harness.Run(t, p.env, in, "plink", p.args("-no-sanitise-stdout", o.target(), "cat")...)
		if r.OK(t) != string(data) {
			t.Errorf("got %d bytes, want the %d bytes sent", len(r.Stdout), len(data))
		}
	}, harness.Exec, harness.ByCommand)
	e.Supports(t, "plink: a shell on a terminal that changes its size", func(t *testing.T) {
		cmd := o.start("plink", p.args("-t", o.target())...)
		cmd.Env = append(cmd.Env, p.env...)
		usesATerminal(t, cmd)
	}, harness.Shell)
	e.Supports(
		t,
		"pscp by sftp and by scp, psftp",
		func(t *testing.T) { p.copies(t) },
		harness.SCP,
		harness.SFTP,
	)
	e.Supports(
		t,
		"plink forwards with -L, -R and -D",
		func(t *testing.T) { p.forwards(t) },
		harness.Local,
		harness.Remote,
		harness.Dynamic,
	)
	e.Supports(t, "plink -nc through the proxy reaches a node without tsh", func(t *testing.T) {
		host, port, err := net.SplitHostPort(o.Proxy)
		if err != nil {
			t.Fatal(err)
		}
		jump := fmt.Sprintf("plink -batch -i %s -P %s anyone@%s -nc anvil:22", p.key, port, host)
		args := []string{"-batch", "-i", p.key, "-proxycmd", jump, o.target(), "echo jumped"}
		out := harness.Run(t, p.env, nil, "plink", args...).OK(t)
		if strings.TrimSpace(out) != "jumped" {
			t.Errorf("got %q, want the command's output", out)
		}
	}, harness.ByJump)
	e.Lacks(
		t,
		"the key without its certificate is refused, and the event log says what to do",
		func(t *testing.T) {
			args := []string{"-v", "-batch", "-i", p.bare, "-proxycmd", p.proxyCommand, o.target(), "true"}
			r := harness.Run(t, p.env, nil, "plink", args...)
			if r.Code == 0 || !strings.Contains(r.Stderr, "tsh login") {
				t.Errorf("got %+v, want a refusal that names tsh login", r)
			}
		},
	)
	e.AddNote(
		"Configuration: set the key, and the certificate that tsh keeps as `ssh_key-cert.pub`, in\n" +
			"SSH > Auth > Credentials; the key of the `@cert-authority` line in SSH > Host keys >\n" +
			"Configure host CAs; and `tsh proxy ssh %host` in Proxy > Local. Without a host CA, PuTTY\n" +
			"shows the fingerprint of the host key and asks.",
	)
}

// putty is the configuration of PuTTY's programs.
type putty struct {
	o            *clientFixture
	dir          string
	env          []string
	bare, key    string // key files without and with the certificate
	proxyCommand string
}

// newPutty converts the key and trusts the cluster as host CA.
func newPutty(t *testing.T, o *clientFixture) *putty {
	t.Helper()
	dir := t.TempDir()
	p := &putty{
		o:            o,
		dir:          dir,
		bare:         filepath.Join(dir, "bare.ppk"),
		key:          filepath.Join(dir, "key.ppk"),
		proxyCommand: o.proxyCommand(t, "%host"),
	}
	p.env = []string{"HOME=" + dir}
	puttygen := func(args ...string) {
		t.Helper()
		harness.Run(t, p.env, nil, "puttygen", args...).OK(t)
	}
	puttygen(filepath.Join(o.profile, "ssh_key"), "-O", "private", "-o", p.bare)
	puttygen(p.bare, "--certificate", filepath.Join(o.profile, "ssh_key-cert.pub"), "-o", p.key)
	known, err := os.ReadFile(filepath.Join(o.profile, "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(known), "\n") // @cert-authority PATTERNS ssh-ed25519 KEY
	host, _, err := net.SplitHostPort(o.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	cas := filepath.Join(dir, ".putty", "sshhostcas")
	if err := os.MkdirAll(cas, 0o700); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, cas, "cluster", fmt.Sprintf(`PublicKey=%s
Validity=*.%s || %s
PermitRSASHA1=0
PermitRSASHA256=0
PermitRSASHA512=0
`, strings.Fields(first)[3], harness.ClusterName, host))
	return p
}

func (p *putty) args(more ...string) []string {
	return append([]string{"-batch", "-i", p.key, "-proxycmd", p.proxyCommand}, more...)
}

func (p *putty) copies(t *testing.T) {
	from := filepath.Join(p.dir, "from")
	data := writeRandomFile(t, from, 2<<20)
	for _, protocol := range []string{"-sftp", "-scp"} {
		back := from + protocol
		remote := p.o.target() + ":pscp" + protocol
		for _, files := range [][]string{{from, remote}, {remote, back}} {
			args := append([]string{protocol, "-q"}, p.args(files...)...)
			harness.Run(t, p.env, nil, "pscp", args...).OK(t)
		}
		wantFile(t, back, data)
	}
	commands := fmt.Sprintf(`mkdir psftp
cd psftp
put %s a
mv a b
ls
get b %s.psftp
rm b
cd ..
rmdir psftp
quit
`, from, from)
	batch := harness.WriteFile(t, p.dir, "batch", commands)
	out := harness.Run(t, p.env, nil, "psftp", p.args("-b", batch, p.o.target())...).OK(t)
	contains(t, out, "Listing directory "+p.o.home("psftp"))
	wantFile(t, from+".psftp", data)
}

func (p *putty) forwards(t *testing.T) {
	server := startEcho(t, "tcp", "127.0.0.1:0")
	local, remote := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	socks := harness.FreeAddr(t, "127.0.0.1")
	args := p.args("-N", "-L", local+":"+server, "-R", remote+":"+server, "-D", socks, p.o.target())
	harness.Start(t, p.env, "plink", args...)
	checkClientEcho(t, dialer("tcp", local))
	checkClientEcho(t, dialer("tcp", remote))
	checkClientEcho(t, bySOCKS(socks, server))
}
