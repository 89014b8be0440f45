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

// One user, or a thief with the certificate of one, cannot use up the connections of the proxy.
func TestConnectionsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	alice, bob := srv.user("alice@example.com", "ops"), srv.user("bob@example.com", "ops")
	again := alice // another login of the same user
	again.LoginID = "login-2"
	synctest.Test(t, func(t *testing.T) {
		connect := func(who identity.Peer) net.Conn {
			client, server := net.Pipe()
			go srv.ServeDial(t.Context(), addrConn{server}, who)
			return client
		}
		var held []net.Conn
		for range 1000 {
			held = append(held, connect(alice))
		}
		synctest.Wait()
		c := connect(again)
		rep, err := dial.ReadReply(c)
		if err != nil || rep.Fault == nil {
			t.Fatalf("got %+v, %v for one more, want it refused", rep, err)
		}
		if f := rep.Fault; f.Kind != fault.Exhausted || !strings.Contains(f.Msg, "1000") || f.Remedy == "" {
			t.Errorf("got %+v for one more, want it exhausted with a remedy", f)
		}
		c.Close()
		c = connect(bob)
		if _, err := c.Write([]byte{1, 0}); err != nil { // the beginning of a request
			t.Errorf("got %v for another user, want the request read", err)
		}
		go io.Copy(io.Discard, c)
		for _, c := range append(held, c) {
			c.Close()
		}
		synctest.Wait()
		c = connect(alice)
		if _, err := c.Write([]byte{1, 0}); err != nil {
			t.Errorf("got %v once the others had ended, want the request read", err)
		}
		go io.Copy(io.Discard, c)
		c.Close()
		synctest.Wait()
	})
}
