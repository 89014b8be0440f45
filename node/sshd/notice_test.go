package sshd_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/dial"
)

// Somebody who only forwards has no session in which to hear why the connection ends, so tsh is told beside;
// others are not.
func TestAClientWithoutASessionIsToldWhyTheConnectionEnds(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{IdleTimeout: duration(time.Second)}))
	for version, want := range map[string]bool{dial.ClientVersion: true, "SSH-2.0-OpenSSH_9.2": false} {
		raw, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, chans, reqs, err := ssh.NewClientConn(
			raw,
			"web-1",
			&ssh.ClientConfig{
				User:            testAccount(),
				ClientVersion:   version,
				Auth:            []ssh.AuthMethod{ssh.PublicKeys(r.signer())},
				HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			},
		)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			for nc := range chans {
				_ = nc.Reject(ssh.Prohibited, "")
			}
		}()
		said := ""
		for q := range reqs { // until the node hangs up
			if q.Type == dial.EndNotice {
				said = string(q.Payload)
			}
			_ = q.Reply(false, nil)
		}
		if got := strings.Contains(said, "nothing was typed for 1s (role ops, idle_timeout)\nthreshold: hint: "); got != want {
			t.Errorf("%s: got %q said, want words: %v", version, said, want)
		}
	}
}
