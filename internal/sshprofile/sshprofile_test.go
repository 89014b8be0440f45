package sshprofile_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// A new configuration lets nobody in, prefers ML-KEM, and offers no algorithm with a known weakness.
func TestNothingWeakIsOffered(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := sshprofile.NewServerConfig(host)
	if cfg.NoClientAuth || cfg.PasswordCallback != nil || cfg.PublicKeyCallback != nil {
		t.Error("a new configuration lets somebody in, want nobody")
	}
	if len(cfg.KeyExchanges) == 0 || !strings.HasPrefix(cfg.KeyExchanges[0], "mlkem768") {
		t.Errorf("key exchanges: got %q, want ML-KEM first", cfg.KeyExchanges)
	}
	for _, name := range slices.Concat(cfg.KeyExchanges, cfg.Ciphers, cfg.MACs) {
		for _, weak := range []string{"sha1", "cbc", "arcfour", "3des", "md5", "none"} {
			if strings.Contains(name, weak) {
				t.Errorf("%s is offered", name)
			}
		}
	}
}

func TestMessagesObeyNoTerminal(t *testing.T) {
	t.Parallel()
	err := faulttest.New(fault.Denied, "node", "no \x1b[31mlogin\u009b root\r", "run: tsh login\n")
	want := "threshold: error: no ?[31mlogin? root?\r\nthreshold: hint: run: tsh login?\r\n"
	if got := sshprofile.Message(err, "\r\n"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var banner *ssh.BannerError
	if b := sshprofile.Banner(err); !errors.As(b, &banner) || banner.Message != want ||
		!fault.Is(b, fault.Denied) {
		t.Errorf("got %v, want a banner with the message that keeps its kind", b)
	}
	plain := faulttest.New(fault.Internal, "node", "defect", "")
	if got := sshprofile.Message(plain, "\n"); got != "threshold: error: defect\n" {
		t.Errorf("without a remedy: got %q", got)
	}
}
