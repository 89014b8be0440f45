//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// dropbearStory is about everyone who comes without a certificate: they are refused cleanly, and told what
// helps.
func dropbearStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	harness.Run(t, nil, nil, "dropbearkey", "-t", "ed25519", "-f", key).OK(t)
	env := []string{"HOME=" + dir}
	told := func(t *testing.T, r harness.Result) {
		t.Helper()
		if r.Code == 0 || r.Stdout != "" ||
			!strings.Contains(r.Stderr, "takes a certificate and nothing else") ||
			!strings.Contains(r.Stderr, "tsh login") {
			t.Errorf("got %+v, want a refusal that says what is missing and what helps", r)
		}
	}
	e.Lacks(t, "knows no certificates: its key is refused, and it shows what helps", func(t *testing.T) {
		told(
			t,
			harness.Run(
				t,
				env,
				nil,
				"dbclient",
				"-y",
				"-i",
				key,
				"-J",
				o.proxyCommand(t, o.nodes[0]),
				o.target(),
				"id",
			),
		)
	}, harness.Certificate)
	e.Lacks(t, "OpenSSH with a plain key, or with a password alone, is told the same", func(t *testing.T) {
		plain := filepath.Join(dir, "plain")
		o.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", plain).OK(t)
		only := []string{
			"-F",
			"none",
			"-o",
			"IdentitiesOnly=yes",
			"-o",
			"StrictHostKeyChecking=no",
			"-o",
			"UserKnownHostsFile=/dev/null",
			"-o",
			"ProxyCommand=" + o.proxyCommand(t, "%h"),
		}
		told(t, harness.Run(t, env, nil, "ssh", append(only, "-i", plain, o.target(), "id")...))
		told(
			t,
			harness.Run(
				t,
				env,
				nil,
				"ssh",
				append(only, "-o", "PubkeyAuthentication=no", o.target(), "id")...),
		)
	})
	e.Lacks(t, "PuTTY with a password is not asked for one", func(t *testing.T) {
		p := newPutty(t, o)
		r := harness.Run(
			t,
			p.env,
			nil,
			"plink",
			"-v",
			"-batch",
			"-pw",
			"secret",
			"-proxycmd",
			p.proxyCommand,
			o.target(),
			"id",
		)
		if r.Code == 0 || !strings.Contains(r.Stderr, "tsh login") ||
			strings.Contains(r.Stderr, "Sent password") {
			t.Errorf("got %+v, want a refusal with what helps, and no password sent", r)
		}
	})
}
