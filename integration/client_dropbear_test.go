//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// dropbearStory tries clients without a certificate. They are refused with an error that says what to do.
func dropbearStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	harness.Run(t, nil, nil, "dropbearkey", "-t", "ed25519", "-f", key).OK(t)
	env := []string{"HOME=" + dir}
	wantRefused := func(t *testing.T, r harness.Result) {
		t.Helper()
		if r.Code == 0 || r.Stdout != "" {
			t.Errorf("got %+v, want a refusal", r)
		}
		contains(t, r.Stderr, "accepts only certificates", "tsh login")
	}
	const what = "does not support certificates: its key is refused, and it shows what to do"
	e.Lacks(t, what, func(t *testing.T) {
		args := []string{"-y", "-i", key, "-J", o.proxyCommand(t, o.nodes[0]), o.target(), "id"}
		wantRefused(t, harness.Run(t, env, nil, "dbclient", args...))
	}, harness.Certificate)
	const others = "OpenSSH with a key without certificate, or with a password, is refused the same way"
	e.Lacks(t, others, func(t *testing.T) {
		plain := filepath.Join(dir, "plain")
		o.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", plain).OK(t)
		ssh := func(more ...string) harness.Result {
			args := strings.Fields("-F none -o IdentitiesOnly=yes -o StrictHostKeyChecking=no")
			args = append(args, "-o", "UserKnownHostsFile=/dev/null")
			args = append(args, "-o", "ProxyCommand="+o.proxyCommand(t, "%h"))
			args = append(append(args, more...), o.target(), "id")
			return harness.Run(t, env, nil, "ssh", args...)
		}
		wantRefused(t, ssh("-i", plain))
		wantRefused(t, ssh("-o", "PubkeyAuthentication=no"))
	})
	e.Lacks(t, "PuTTY with a password is not asked for one", func(t *testing.T) {
		p := newPutty(t, o)
		args := []string{"-v", "-batch", "-pw", "secret", "-proxycmd", p.proxyCommand, o.target(), "id"}
		r := harness.Run(t, p.env, nil, "plink", args...)
		if r.Code == 0 || strings.Contains(r.Stderr, "Sent password") {
			t.Errorf("got %+v, want a refusal, and no password sent", r)
		}
		contains(t, r.Stderr, "tsh login")
	})
}
