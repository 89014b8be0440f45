package rules

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// A node that acknowledges without end is heard five times a second, with the newest.
func TestEachTunnelIsHeardAtABoundedRate(t *testing.T) {
	t.Parallel()
	a := NewAcknowledgements(AcknowledgementsConfig{})
	take, end := a.Source("web")
	now := time.Now()
	sent, last := 0, ""
	for i := range 1000 { // within a second
		take([]byte(`{"payload":"AAAA"}`))
		take([]byte(`{"payload":"AAAB"}`))
		batch, more := a.takeDue(now.Add(time.Duration(i) * time.Millisecond))
		if len(batch) == 0 && !more {
			t.Fatal("the newest is neither sent nor due")
		}
		if sent += len(batch); len(batch) > 0 {
			last = string(batch[0].newest.Payload)
		}
	}
	if sent != 5 || last != "\x00\x00\x01" {
		t.Errorf("got %d sent in a second, at last %q; want 5 and the newest", sent, last)
	}
	end()
	if batch, more := a.takeDue(now.Add(time.Hour)); len(batch) > 0 || more {
		t.Errorf("got %d, %v after the end of the tunnel, want nothing", len(batch), more)
	}
}

// A call has at most as many acknowledgements as auth takes, and fits into its bound whatever nodes send.
func TestACallIsBounded(t *testing.T) {
	t.Parallel()
	a := NewAcknowledgements(AcknowledgementsConfig{})
	frame, err := json.Marshal(rules.Signed{
		Payload: make([]byte, rules.MaxAcknowledgementBytes), Sig: make([]byte, 1000),
	})
	if err != nil || len(frame) > tunnel.MaxHeaderBytes || len(frame) < tunnel.MaxHeaderBytes-50 {
		t.Fatalf("got a frame of %d bytes (%v), want one of about the largest", len(frame), err)
	}
	for range authrpc.MaxAcknowledgements + 1 {
		take, _ := a.Source(identity.MachineID(strings.Repeat("f", 32)))
		take(frame)
	}
	now := time.Now()
	batch, more := a.takeDue(now)
	if len(batch) != authrpc.MaxAcknowledgements || !more {
		t.Errorf("got %d and %v, want as many as a call takes, and more", len(batch), more)
	}
	var req authrpc.ReportAcknowledgementsRequest
	for _, s := range batch {
		req.Acknowledgements = append(req.Acknowledgements,
			authrpc.MachineAcknowledgement{Machine: s.machine, Signed: s.newest})
	}
	if b, err := json.Marshal(req); err != nil || len(b) > authrpc.MaxAcknowledgementsBytes {
		t.Errorf("got %d bytes (%v), want at most %d", len(b), err, authrpc.MaxAcknowledgementsBytes)
	}
	if batch, more = a.takeDue(now); len(batch) != 1 || more {
		t.Errorf("got %d and %v, want the last one", len(batch), more)
	}
}

// What no node of any release sends takes no memory and reaches no call.
func TestUnreadableAcknowledgementsAreDropped(t *testing.T) {
	t.Parallel()
	a := NewAcknowledgements(AcknowledgementsConfig{})
	take, _ := a.Source("web")
	large, err := json.Marshal(rules.Signed{Payload: make([]byte, rules.MaxAcknowledgementBytes+1)})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", "[]", "{}", `{"payload":""}`, `{"payload":7}`, string(large)} {
		take([]byte(bad))
		if batch, more := a.takeDue(time.Now()); len(batch) > 0 || more {
			t.Errorf("%.40q: got it due, want it dropped", bad)
		}
	}
	take([]byte(`{"payload":"AAAA","later":1}`))
	if batch, _ := a.takeDue(time.Now()); len(batch) != 1 {
		t.Error("got one with a later field dropped, want it sent")
	}
}
