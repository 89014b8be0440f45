package tunnel_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel"
)

// testPush is rules of which each piece is a text: its name is the first letter.
type testPush struct {
	pieces []string
	head   string
}

func rulesPush(head string, pieces ...string) tunnel.RulesPush { return testPush{pieces, head} }

func (p testPush) Next(carried map[string][32]byte) (pieces [][]byte, head []byte) {
	for _, piece := range p.pieces {
		name, digest := piece[:1], sha256.Sum256([]byte(piece))
		if carried[name] != digest {
			pieces = append(pieces, []byte(piece))
		}
	}
	return pieces, []byte(p.head)
}

func (p testPush) Digests() map[string][32]byte {
	digests := map[string][32]byte{}
	for _, piece := range p.pieces {
		digests[piece[:1]] = sha256.Sum256([]byte(piece))
	}
	return digests
}

// newRulesTunnel makes a tunnel in a bubble.
func newRulesTunnel(t *testing.T) (*tunnel.Attached, *tunnel.Uplink) {
	t.Helper()
	node := newMachine(t, nodeID)
	attached, uplink, err, err2 := greet(t, node, node.peer, nodeID, time.Now, time.Now)
	if err != nil || err2 != nil {
		t.Fatalf("greet: %v, %v", err, err2)
	}
	t.Cleanup(func() { attached.Close(); uplink.Close() })
	return attached, uplink
}

// wantRules checks what the node takes next.
func wantRules(t *testing.T, uplink *tunnel.Uplink, head string, pieces ...string) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-uplink.Rules():
		list := string(bytes.Join(got.Pieces, []byte(" ")))
		if want := strings.Join(pieces, " "); list != want || string(got.Head) != head {
			t.Errorf("got pieces %q and head %q, want %q and %q", list, got.Head, want, head)
		}
	default:
		t.Errorf("got no rules, want pieces %q and head %q", pieces, head)
	}
}

// A push over the limit fails.
func TestAPieceOfTheRulesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, _ := newRulesTunnel(t)
		err := attached.PushRules(t.Context(), rulesPush("1", string(make([]byte, tunnel.MaxFrameBytes+1))))
		if err == nil {
			t.Error("got an oversize piece pushed, want an error")
		}
	})
}

// The node takes only what this tunnel has not carried, and the newest head. Of pushes that it did not take
// at once, it gets all pieces.
func TestOnlyWhatHasChangedIsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, uplink := newRulesTunnel(t)
		push := func(head string, pieces ...string) {
			t.Helper()
			if err := attached.PushRules(t.Context(), rulesPush(head, pieces...)); err != nil {
				t.Fatal(err)
			}
		}
		push("1", "a1", "b1")
		wantRules(t, uplink, "1", "a1", "b1")
		push("2", "a1", "b1")
		wantRules(t, uplink, "2")
		push("3", "a1", "b2")
		push("4", "a2", "b2")
		push("5", "a2", "b2")
		wantRules(t, uplink, "5", "b2", "a2")
	})
}

// A node that lacks a piece gets it again, but cannot make the proxy send it again and again.
func TestANodeAsksForPiecesThatItLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, uplink := newRulesTunnel(t)
		push := func(head string) {
			t.Helper()
			if err := attached.PushRules(t.Context(), rulesPush(head, "a1", "b1")); err != nil {
				t.Fatal(err)
			}
		}
		push("1")
		wantRules(t, uplink, "1", "a1", "b1")
		for range 3 {
			if err := uplink.RepeatRules([]string{"b", "unknown"}); err != nil {
				t.Fatal(err)
			}
		}
		<-attached.RulesWanted()
		push("2")
		wantRules(t, uplink, "2", "b1")
		synctest.Wait()
		select {
		case <-attached.RulesWanted():
			t.Error("the node made the proxy send twice at once")
		default:
		}
		<-time.After(time.Minute) // in the bubble
		if err := uplink.RepeatRules([]string{"a"}); err != nil {
			t.Fatal(err)
		}
		<-attached.RulesWanted()
		push("3")
		wantRules(t, uplink, "3", "a1")
	})
}

// A node that does not take what a proxy pushes keeps a bounded amount of it, and then reads no more.
func TestUntakenRulesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, uplink := newRulesTunnel(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		piece := strings.Repeat("x", tunnel.MaxFrameBytes/2)
		pushed := 0
		for ; pushed < 100; pushed++ {
			piece = string(rune('a'+pushed%26)) + strconv.Itoa(pushed) + piece[:tunnel.MaxFrameBytes/2]
			if err := attached.PushRules(ctx, rulesPush("1", piece)); err != nil {
				break
			}
		}
		if pushed > 6 {
			t.Errorf("got %d pieces of %d bytes read that nobody took", pushed, len(piece))
		}
		size := 0
		for taken := true; taken; {
			synctest.Wait()
			select {
			case rules := <-uplink.Rules():
				for _, p := range rules.Pieces {
					size += len(p)
				}
			default:
				taken = false
			}
		}
		if size == 0 || size > 5*len(piece) {
			t.Errorf("got %d bytes kept, want some and a bounded amount", size)
		}
	})
}
