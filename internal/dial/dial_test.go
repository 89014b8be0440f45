package dial_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A request and a reply are read back as they were written. Bytes behind a request stay in the reader.
func TestRequestAndReplyRoundTrip(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := dial.WriteRequest(&b, dial.Request{Node: "web-1"}, []byte("SSH-2.0")); err != nil {
		t.Fatal(err)
	}
	got, err := dial.ReadRequest(&b)
	if err != nil || got.Node != "web-1" || b.String() != "SSH-2.0" {
		t.Errorf("got %+v, %v and then %q, want web-1 and SSH-2.0", got, err, b.String())
	}
	b.Reset()
	if err := dial.WriteReply(&b,
		dial.Reply{Fault: faulttest.New(fault.NotFound, "op", "no node x", "see: tsh ls")}); err != nil {
		t.Fatal(err)
	}
	rep, err := dial.ReadReply(&b)
	if err != nil || rep.Fault == nil || rep.Fault.Kind != fault.NotFound ||
		rep.Fault.Remedy != "see: tsh ls" {
		t.Errorf("got %+v, %v, want the fault", rep.Fault, err)
	}
}

// A client that reads machine locks gets the document if its own is older, and only then: otherwise the reply
// has not one byte more. A document that is too large is named, and other clients get neither.
func TestRepliesBringNewerMachineLocks(t *testing.T) {
	t.Parallel()
	revision := func(epoch, index uint64) *rules.Revision {
		return &rules.Revision{Epoch: epoch, Index: index}
	}
	document := func(bytes int) rules.Signed {
		return rules.Signed{Payload: make([]byte, bytes), Sig: make([]byte, 64)}
	}
	for _, tt := range []struct {
		name      string
		has       *rules.Revision
		bytes     int
		brings    bool
		named     bool
		moreBytes int // of the reply, at most
	}{
		{"a client of an earlier release", nil, 1000, false, false, 0},
		{"a client without any", revision(0, 0), 1000, true, false, 1500},
		{"a client with an older document", revision(1, 56), 1000, true, false, 1500},
		{"a client with the same document", revision(1, 57), 1000, false, false, 0},
		{"a client with a newer document", revision(2, 1), 1000, false, false, 0},
		{"the largest document", revision(1, 56), dial.MaxLocksBytes, true, false, 44 << 10},
		{"a larger document", revision(1, 56), dial.MaxLocksBytes + 1, false, true, 60},
	} {
		features := wire.Features{"one", "two"}
		var plain, b bytes.Buffer
		if err := dial.WriteReply(&plain, dial.Reply{NodeFeatures: features}); err != nil {
			t.Fatal(err)
		}
		reply := dial.Reply{NodeFeatures: features}
		reply.OfferMachineLocks(dial.Request{MachineLocks: tt.has}, *revision(1, 57), document(tt.bytes))
		if err := dial.WriteReply(&b, reply); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if more := b.Len() - plain.Len(); more > tt.moreBytes || more > 0 && tt.moreBytes == 0 {
			t.Errorf("%s: got %d bytes more, want at most %d", tt.name, more, tt.moreBytes)
		}
		got, err := dial.ReadReply(&b)
		brings, named := got.MachineLocks != nil, got.MachineLocksAt != nil
		sameFeatures := slices.Equal(got.NodeFeatures, features)
		if err != nil || brings != tt.brings || named != tt.named || !sameFeatures {
			t.Errorf("%s: got the document %v, its revision %v (%v), want %v, %v",
				tt.name, brings, named, err, tt.brings, tt.named)
		}
		if brings && len(got.MachineLocks.Payload) != tt.bytes {
			t.Errorf("%s: got %d bytes, want the document", tt.name, len(got.MachineLocks.Payload))
		}
	}
}

// A refusal has nothing but the fault, so that it always fits and every client can show it.
func TestRefusalsBringNoMachineLocks(t *testing.T) {
	t.Parallel()
	reply := dial.Reply{Fault: faulttest.New(fault.Denied, "op", "no", "ask")}
	request := dial.Request{MachineLocks: &rules.Revision{}}
	reply.OfferMachineLocks(request, rules.Revision{Epoch: 1}, rules.Signed{})
	var b bytes.Buffer
	if err := dial.WriteReply(&b, reply); err != nil {
		t.Fatal(err)
	}
	if got, err := dial.ReadReply(&b); err != nil || got.Fault == nil || got.MachineLocks != nil {
		t.Errorf("got %+v (%v), want the fault alone", got, err)
	}
}

func TestAnOversizeRequestIsNotSent(t *testing.T) {
	t.Parallel()
	if err := dial.WriteRequest(io.Discard, dial.Request{Node: strings.Repeat("x", dial.MaxBytes)},
		nil); err == nil {
		t.Error("got an oversize request sent, want an error")
	}
}

func TestReadRequestRefuses(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"half a head":            {1, 0},
		"another version":        {2, 0, 2, '{', '}'},
		"half a body":            {1, 0, 9, '{', '}'},
		"text that is no JSON":   {1, 0, 2, 'h', 'i'},
		"a node of another type": append([]byte{1, 0, 10}, `{"node":1}`...),
		"more than allowed":      append([]byte{1, 0x10, 1}, bytes.Repeat([]byte(" "), dial.MaxBytes+1)...),
	} {
		if got, err := dial.ReadRequest(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: got %+v, want refused", name, got)
		}
	}
}

func TestAnOversizeReplyIsRefused(t *testing.T) {
	t.Parallel()
	body := append([]byte("{}"), bytes.Repeat([]byte(" "), dial.MaxReplyBytes)...)
	head := binary.BigEndian.AppendUint16([]byte{1}, uint16(len(body)))
	if _, err := dial.ReadReply(bytes.NewReader(append(head, body...))); err == nil {
		t.Error("got a reply of more than 48 KiB read, want refused")
	}
}

// countingConn counts the writes.
type countingConn struct {
	net.Conn
	writes int
}

func (c *countingConn) Write(b []byte) (int, error) { c.writes++; return c.Conn.Write(b) }

func connPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	near, far = net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// The client sends the request and its first bytes by one write, before the proxy has replied, and then reads
// the node's bytes.
func TestClientSendsBeforeTheReplyInOneWrite(t *testing.T) {
	t.Parallel()
	near, far := connPair(t)
	raw := &countingConn{Conn: near}
	conn := dial.Client(raw, dial.Request{Node: "web-1"})
	done := make(chan error, 1)
	go func() {
		req, err := dial.ReadRequest(far)
		if err == nil && req.Node != "web-1" {
			err = errors.New("another node: " + req.Node)
		}
		first := make([]byte, 5)
		if err == nil {
			_, err = io.ReadFull(far, first) // the client's first bytes are there before any reply
		}
		if err == nil {
			err = dial.WriteReply(far, dial.Reply{})
		}
		if err == nil {
			_, err = far.Write(first)
		}
		done <- err
	}()
	if n, err := conn.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatalf("got %d, %v, want 5 bytes written", n, err)
	}
	if raw.writes != 1 {
		t.Errorf("got %d writes, want request and first bytes in one", raw.writes)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v, want the reply stripped and hello", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// When the proxy refuses, every Read returns its fault.
func TestClientReturnsTheFaultOfTheProxy(t *testing.T) {
	t.Parallel()
	near, far := connPair(t)
	conn := dial.Client(near, dial.Request{Node: "web-9"})
	go func() {
		_, _ = dial.ReadRequest(far)
		_ = dial.WriteReply(
			far,
			dial.Reply{
				Fault: faulttest.New(
					fault.NotFound,
					"proxy.reach",
					"no node web-9 that you may reach",
					"see: tsh ls",
				),
			},
		)
		far.Close()
	}()
	conn.Write(nil)
	for range 2 { // the second Read returns it again
		if _, err := conn.Read(make([]byte, 1)); !fault.Is(err, fault.NotFound) ||
			fault.Remedy(err) != "see: tsh ls" {
			t.Errorf("got %v, want not found with its remedy", err)
		}
	}
}

func TestClientWhenTheProxyClosesWithoutReply(t *testing.T) {
	t.Parallel()
	near, far := connPair(t)
	conn := dial.Client(near, dial.Request{Node: "web-1"})
	go func() {
		_, _ = dial.ReadRequest(far)
		far.Close()
	}()
	conn.Write(nil)
	if _, err := conn.Read(make([]byte, 1)); !fault.Is(err, fault.Unavailable) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want unavailable with a remedy", err)
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte{1, 0, 16, '{', '"', 'n', 'o', 'd', 'e', '"', ':', '"', 'w', 'e', 'b', '-', '1', '"', '}'})
	f.Add([]byte{1, 0xff, 0xff})
	f.Add(append([]byte{1, 0, 37}, `{"critical":[],"features":["faults"]}`...))
	f.Add(append([]byte{1, 0, 39}, `{"machine_locks":{"epoch":1,"index":2}}`...))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := dial.ReadRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := dial.WriteRequest(&again, req, nil); err != nil {
			return // escapes make it longer than it came
		}
		got, err := dial.ReadRequest(&again)
		if err != nil || got.Node != req.Node || !slices.Equal(got.Features, req.Features) ||
			!reflect.DeepEqual(got.MachineLocks, req.MachineLocks) {
			t.Errorf("got %+v, %v, want %+v", got, err, req)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	f.Add([]byte{1, 0, 2, '{', '}'})
	f.Add(append([]byte{1, 0, 36}, `{"fault":{"kind":"denied","msg":""}}`...))
	f.Add(append([]byte{1, 0, 47}, `{"machine_locks":{"payload":"e30=","sig":"AA=="}}`...))
	f.Add(append([]byte{1, 0, 42}, `{"machine_locks_at":{"epoch":1,"index":2}}`...))
	f.Fuzz(func(t *testing.T, b []byte) {
		rep, err := dial.ReadReply(bytes.NewReader(b))
		if err != nil {
			return
		}
		if rep.Fault != nil {
			_ = rep.Fault.Error()
		}
		if rep.MachineLocks != nil && len(rep.MachineLocks.Payload) > dial.MaxReplyBytes {
			t.Errorf("got %d bytes of locks, want a bound", len(rep.MachineLocks.Payload))
		}
	})
}
