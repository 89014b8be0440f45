package sshd_test

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/wire"
)

// clientsWithFaults are kinds of clients, and whether they read faults.
var clientsWithFaults = map[string]bool{"a client that reads faults": true, "another client": false}

// featuresOf is what a client understands.
func featuresOf(readsFaults bool) wire.Features {
	if readsFaults {
		return wire.Features{"of-a-later-release", dial.Faults}
	}
	return wire.Features{"of-a-later-release"}
}

// A node tells tsh why it refuses something as a fault, and other clients as text for people.
func TestRefusalsAreFaultsForTshAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "list", "exec"))
	for version, want := range clientsWithFaults {
		client := ssh.NewClient(f.connect(featuresOf(want)))
		defer client.Close()

		_, _, err := client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{"db", 5432, "127.0.0.1", 1}))
		refusal, ok := err.(*ssh.OpenChannelError)
		if !ok {
			t.Fatalf("%s: got %v, want the channel refused", version, err)
		}
		wantRefusal(t, version+": a channel", refusal.Message, want, "forward-local")

		_, answer, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"localhost", 8080}))
		if err != nil {
			t.Fatal(err)
		}
		if want {
			wantRefusal(t, version+": a global request", string(answer), true, "forward-remote")
		} else if len(answer) != 0 {
			t.Errorf("%s: got %q in the reply to a refused request, want nothing", version, answer)
		}

		ch, reqs, err := client.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.SendRequest("shell", true, nil); err != nil {
			t.Fatal(err)
		}
		got := false
		for r := range reqs { // until the node closes the channel
			if r.Type == dial.ProgramFault {
				got = true
				wantRefusal(t, version+": a program", string(r.Payload), true, "shell")
			}
		}
		if got != want {
			t.Errorf("%s: got a fault for the program: %v, want %v", version, got, want)
		}
	}
}

// The banner of a refused login is a fault for tsh alone.
func TestRefusedLoginsAreFaultsForTshAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "list"))
	for version, want := range clientsWithFaults {
		f.connectAs(featuresOf(want))
		raw, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		banner := ""
		_, _, _, err = ssh.NewClientConn(raw, "web-1", &ssh.ClientConfig{
			User:            testAccount(),
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(f.signer())},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			BannerCallback:  func(s string) error { banner += s; return nil },
		})
		if err == nil {
			t.Fatalf("%s: got a login, want it refused", version)
		}
		wantRefusal(t, version, banner, want, "no role of alice@example.com")
	}
}

// wantRefusal checks a text by which the node refuses something: it has part in it, and is a fault or text.
func wantRefusal(t *testing.T, what, text string, wantFault bool, part string) {
	t.Helper()
	reason, isFault := fault.ParseObject([]byte(text))
	if isFault != wantFault {
		t.Errorf("%s: got %q, want a fault: %v", what, text, wantFault)
		return
	}
	if isFault && reason.Remedy == "" {
		t.Errorf("%s: got %+v, want a remedy", what, reason)
	}
	if isFault {
		text = reason.Msg
	}
	if !strings.Contains(text, part) {
		t.Errorf("%s: got %q, want %q in it", what, text, part)
	}
}
