package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// ServiceManager is the service manager that started this program. Without one, its methods do nothing.
type ServiceManager struct{ log *slog.Logger }

// NewServiceManager makes a ServiceManager. A notification that cannot be sent is a warning in the log.
func NewServiceManager(log *slog.Logger) ServiceManager { return ServiceManager{log} }

// Ready says that the program is ready, with a short status for the service manager to show.
func (m ServiceManager) Ready(status string) {
	m.notify(daemon.SdNotifyReady, "STATUS="+oneLine(status))
}

// Stopping says that the program is stopping, and that this may take as long as within.
func (m ServiceManager) Stopping(within time.Duration) {
	m.notify(
		daemon.SdNotifyStopping,
		fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", within.Microseconds()),
		"STATUS=waiting for sessions to end, at most "+within.String(),
	)
}

// FeedWatchdog tells the manager's watchdog, where it has one, that the program is alive. It does so until
// ctx ends, as long as each check of the parts returns, with whatever result.
func (m ServiceManager) FeedWatchdog(ctx context.Context, h *Health) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return err
	}
	tick := time.NewTicker(every / 3) // sd_watchdog_enabled(3) recommends half of it at most
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, every/3)
		h.Check(
			look,
		) // a part that ignores the deadline blocks here, and the watchdog is not fed
		cancel()
		m.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// notify sends the lines as one notification.
func (m ServiceManager) notify(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be notified", "err", err)
	}
}

// oneLine keeps a status from being read as further messages.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
