package jump_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// One person, or whoever took a laptop, cannot have the whole port.
func TestConnectionsOfOneUserAreLimited(t *testing.T) {
	f := newTestServer(t)
	alice, bob := f.user("alice@example.com", "ops"), f.user("bob@example.com", "ops")
	again := alice // another login of the same person
	again.LoginID = "login-2"
	synctest.Test(t, func(t *testing.T) {
		come := func(who identity.Peer) net.Conn {
			client, server := net.Pipe()
			go f.ServeDial(t.Context(), addrConn{server}, who)
			return client
		}
		var held []net.Conn
		for range 1000 {
			held = append(held, come(alice))
		}
		synctest.Wait()
		c := come(again)
		rep, err := dial.ReadReply(c)
		if err != nil || rep.Fault == nil || rep.Fault.Kind != fault.Exhausted ||
			!strings.Contains(rep.Fault.Msg, "1000") ||
			rep.Fault.Remedy == "" {
			t.Errorf("got %+v, %v for one more, want it refused with a remedy", rep, err)
		}
		c.Close()
		c = come(bob)
		if _, err := c.Write([]byte{1, 0}); err != nil { // the beginning of a request
			t.Errorf("got %v for somebody else, want to be heard", err)
		}
		go io.Copy(io.Discard, c)
		for _, c := range append(held, c) {
			c.Close()
		}
		synctest.Wait()
		c = come(alice)
		if _, err := c.Write([]byte{1, 0}); err != nil {
			t.Errorf("got %v once the others had left, want to be heard", err)
		}
		go io.Copy(io.Discard, c)
		c.Close()
		synctest.Wait()
	})
}
