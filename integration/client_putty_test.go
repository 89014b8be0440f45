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

// puttyStory uses PuTTY's programs with the key converted and the certificate inside, and with the cluster as
// a trusted host CA.
func puttyStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	p := newPutty(t, o)
	e.Supports(
		t,
		"puttygen takes the key and, by --certificate, the certificate into one file",
		func(t *testing.T) {
			out := harness.Run(t, p.env, nil, "puttygen", p.key, "-O", "cert-info").OK(t)
			if !strings.Contains(out, "alice@example.com") || !strings.Contains(out, o.account.Username) {
				t.Errorf("got %q, want the person and the account", out)
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
		if r := harness.Run(t, p.env, in, "plink", p.args("-no-sanitise-stdout", o.target(), "cat")...); r.OK(
			t,
		) != string(
			data,
		) {
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
	e.Supports(t, "plink -nc on the proxy leads to a node without tsh", func(t *testing.T) {
		host, port, err := net.SplitHostPort(o.Proxy)
		if err != nil {
			t.Fatal(err)
		}
		jump := fmt.Sprintf("plink -batch -i %s -P %s anyone@%s -nc anvil:22", p.key, port, host)
		if out := harness.Run(t, p.env, nil, "plink", "-batch", "-i", p.key, "-proxycmd", jump, o.target(), "echo jumped").OK(t); strings.TrimSpace(
			out,
		) != "jumped" {
			t.Errorf("got %q, want the command's output", out)
		}
	}, harness.ByJump)
	e.Lacks(
		t,
		"the key without its certificate is refused, and the event log says what helps",
		func(t *testing.T) {
			r := harness.Run(
				t,
				p.env,
				nil,
				"plink",
				"-v",
				"-batch",
				"-i",
				p.bare,
				"-proxycmd",
				p.proxyCommand,
				o.target(),
				"true",
			)
			if r.Code == 0 || !strings.Contains(r.Stderr, "tsh login") {
				t.Errorf("got %+v, want a refusal with what helps", r)
			}
		},
	)
	e.AddNote(
		"Configuration: SSH > Auth > Credentials takes the key and, beside it, the certificate that tsh keeps as `ssh_key-cert.pub`; SSH > Host keys > Configure host CAs " +
			"takes the key of the `@cert-authority` line; Proxy > Local takes `tsh proxy ssh %host`. Without a host CA, PuTTY shows the fingerprint of the bare host key and asks.",
	)
}

// putty is a person's set-up.
type putty struct {
	o            *clientFixture
	dir          string
	env          []string
	bare, key    string // without and with the certificate
	proxyCommand string
}

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
	harness.Run(t, p.env, nil, "puttygen", filepath.Join(o.profile, "ssh_key"), "-O", "private", "-o", p.bare).
		OK(t)
	harness.Run(t, p.env, nil, "puttygen", p.bare, "--certificate", filepath.Join(o.profile, "ssh_key-cert.pub"), "-o", p.key).
		OK(t)
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
	harness.WriteFile(
		t,
		cas,
		"story",
		fmt.Sprintf(
			"PublicKey=%s\nValidity=*.%s || %s\nPermitRSASHA1=0\nPermitRSASHA256=0\nPermitRSASHA512=0\n",
			strings.Fields(first)[3],
			harness.ClusterName,
			host,
		),
	)
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
		harness.Run(t, p.env, nil, "pscp", append([]string{protocol, "-q"}, p.args(from, p.o.target()+":pscp"+protocol)...)...).
			OK(t)
		harness.Run(t, p.env, nil, "pscp", append([]string{protocol, "-q"}, p.args(p.o.target()+":pscp"+protocol, back)...)...).
			OK(t)
		wantFile(t, back, data)
	}
	batch := harness.WriteFile(
		t,
		p.dir,
		"batch",
		fmt.Sprintf(
			"mkdir psftp\ncd psftp\nput %s a\nmv a b\nls\nget b %s.psftp\nrm b\ncd ..\nrmdir psftp\nquit\n",
			from,
			from,
		),
	)
	if out := harness.Run(t, p.env, nil, "psftp", p.args("-b", batch, p.o.target())...).OK(t); !strings.Contains(
		out,
		"Listing directory "+p.o.home("psftp"),
	) {
		t.Errorf("got %q, want the folder listed", out)
	}
	wantFile(t, from+".psftp", data)
}

func (p *putty) forwards(t *testing.T) {
	behind := startEcho(t, "tcp", "127.0.0.1:0")
	local, remote, socks := harness.FreeAddr(
		t,
		"127.0.0.1",
	), harness.FreeAddr(
		t,
		"127.0.0.1",
	), harness.FreeAddr(
		t,
		"127.0.0.1",
	)
	harness.Start(
		t,
		p.env,
		"plink",
		p.args("-N", "-L", local+":"+behind, "-R", remote+":"+behind, "-D", socks, p.o.target())...)
	checkClientEcho(t, dialer("tcp", local))
	checkClientEcho(t, dialer("tcp", remote))
	checkClientEcho(t, bySOCKS(socks, behind))
}
