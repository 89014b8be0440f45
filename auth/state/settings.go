package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

// settingsVersionKey is the key of the rulesVersion of the settings.
const settingsVersionKey = "settings"

// settingsRecords has the settings of the cluster under clusterKey, once somebody has set any.
var settingsRecords = table[access.Settings]{prefix: "settings/", noun: "settings", remedy: bootstrapRemedy}

// PublishedSettings has the settings as of one revision.
type PublishedSettings struct {
	Settings access.Settings // without defaults: a field that nobody has set is zero
	Revision uint64          // of their last change
	Time     time.Time       // of that change
}

// Settings returns the settings as they are stored. If nobody has set any, they are zero, and so is their
// revision.
func (r *Reader) Settings(ctx context.Context) (Stored[access.Settings], error) {
	return settingsRecords.getOrNew(ctx, r, clusterKey)
}

// PublishedSettings returns the settings for their signed document.
func (r *Reader) PublishedSettings(ctx context.Context) (PublishedSettings, error) {
	for {
		version, err := rulesVersions.get(ctx, r, settingsVersionKey)
		if err != nil {
			return PublishedSettings{}, err
		}
		settings, err := r.Settings(ctx)
		if err != nil {
			return PublishedSettings{}, err
		}
		if changed := settings.Revision > version.Revision; changed { // between the two reads
			continue
		}
		return PublishedSettings{settings.Value, version.Revision, version.Value.Time}, nil
	}
}

// Settings changes the settings, and reads.
type Settings struct{ writer }

// PutSettings writes the settings in the place of old. It returns fault Conflict if old is no longer what is
// stored.
func (w *Settings) PutSettings(
	ctx context.Context, old Stored[access.Settings], next access.Settings, now time.Time,
	events ...audit.Event,
) error {
	var c change
	old.Key = clusterKey
	settingsRecords.replaceOrCreate(&c, old, next)
	rulesVersions.set(&c, settingsVersionKey, rulesVersion{Time: now.UTC()})
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
