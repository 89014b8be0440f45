package tunnel_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/threshold-access/threshold/internal/tunnel"
)

// The proxy gets the newest of what the node says, as it is, and a node that says much fills no memory.
func TestTheNewestAcknowledgementReachesTheProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, uplink := newRulesTunnel(t)
		for i := range 1000 {
			if err := uplink.Acknowledge(fmt.Appendf(nil, "number %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := uplink.RepeatRules([]string{"roles"}); err != nil {
			t.Fatal(err)
		}
		<-attached.RulesWanted() // comes after them
		if got := string(<-attached.Acknowledged()); got != "number 999" {
			t.Errorf("got %q, want the newest", got)
		}
		select {
		case got := <-attached.Acknowledged():
			t.Errorf("got %q as well, want one", got)
		default:
		}
	})
}

// One that the proxy would not read is not sent, and the tunnel goes on.
func TestAnAcknowledgementIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attached, uplink := newRulesTunnel(t)
		largest := strings.Repeat("x", tunnel.MaxHeaderBytes)
		if err := uplink.Acknowledge([]byte(largest + "x")); err == nil {
			t.Error("got one that is too large sent, want an error")
		}
		if err := uplink.Acknowledge([]byte(largest)); err != nil {
			t.Fatal(err)
		}
		if got := string(<-attached.Acknowledged()); got != largest {
			t.Errorf("got %d bytes, want the largest that may be sent", len(got))
		}
	})
}
