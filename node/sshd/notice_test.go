package sshd_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/sshd"
)

// A client that only forwards has no session on whose stderr it could read why the connection ends. So tsh
// gets a global request that says so; other clients do not.
func TestAClientWithoutASessionIsToldWhyTheConnectionEnds(t *testing.T) {
	t.Parallel()
	for version, want := range clientsWithFaults {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.allow(roleWithOptions(access.Options{IdleTimeout: access.Set(access.Duration(time.Second))}))
			conn, opens, requests := f.connect(featuresOf(want))
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

// Log and audit log name the connection as the proxy does.
func TestRefusalsNameTheConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "list"))
	if _, _, err := f.dial(testAccount(), f.signer()); err == nil {
		t.Fatal("got a login, want it refused")
	}
	f.awaitLog(t, "connection="+string(connectionID))
	refused := f.recorded(audit.SessionRefused)
	if len(refused) != 1 || refused[0].Connection != connectionID {
		t.Errorf("got %+v recorded, want a refusal on the connection", refused)
	}
}

// Every client is told once what the node understands, whatever it said itself.
func TestClientsAreToldTheFeaturesOfTheNode(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	conn, opens, requests := f.connect(nil)
	defer conn.Close()
	go func() {
		for nc := range opens {
			_ = nc.Reject(ssh.Prohibited, "")
		}
	}()
	notice := receive(t, "the node's features", requests)
	features, err := dial.ParseFeatures(notice.Payload)
	if err != nil || notice.Type != dial.FeaturesNotice || notice.WantReply {
		t.Fatalf("got %q %q (%v), want a notice", notice.Type, notice.Payload, err)
	}
	if !slices.Equal(features, sshd.Features()) || !features.Has(dial.EarlyRequests) {
		t.Errorf("got %v, want %v", features, sshd.Features())
	}
}
