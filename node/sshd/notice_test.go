package sshd_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

// A client that only forwards has no session on whose stderr it could read why the connection ends. So tsh
// gets a global request that says so; other clients do not.
func TestAClientWithoutASessionIsToldWhyTheConnectionEnds(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{dial.ClientVersion: true, "SSH-2.0-OpenSSH_9.2": false} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.allow(roleWithOptions(access.Options{IdleTimeout: access.Set(access.Duration(time.Second))}))
			conn, opens, requests := f.connect(version)
			defer conn.Close()
			go func() {
				for nc := range opens {
					_ = nc.Reject(ssh.Prohibited, "")
				}
			}()
			notice := ""
			for req := range requests { // until the node closes the connection
				if req.Type == dial.EndNotice {
					notice = string(req.Payload)
				}
				_ = req.Reply(false, nil)
			}
			const text = "nothing was typed for 1s (role ops, idle_timeout)"
			reason, got := fault.ParseObject([]byte(notice))
			if got != want || got && (!strings.HasSuffix(reason.Msg, text) || reason.Remedy == "") {
				t.Errorf("got the notice %q, want the reason in it: %v", notice, want)
			}
		})
	}
}
