package mux

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A client that reads no answer is disconnected after authLinger, as the auth service does with its own
// clients.
func TestAClientThatReadsNothingIsDisconnected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, toClient := net.Pipe()
		auth, toAuth := net.Pipe()
		defer client.Close()
		ended := make(chan struct{})
		go func() { defer close(ended); relay(toClient, toAuth) }()
		start := time.Now()
		if _, err := auth.Write([]byte("an answer")); err != nil {
			t.Fatal(err)
		}
		auth.Close()
		<-ended
		if took := time.Since(start); took > authLinger {
			t.Errorf("got the client held for %s, want at most %s", took, authLinger)
		}
	})
}
