package scenario_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"consultd/test/clinic"
)

// A NATS that was set up anew counts from one again. Reading on at the position that Redis remembers would pass over
// everything that is said from now on, so consultd says so and reads nothing until it is told what is right.
func TestALogThatWasMadeAnewIsNotReadOn(t *testing.T) {
	t.Parallel()
	c := clinic.Start(t, clinic.Options{WithoutPubNub: true})
	first := c.Run()
	backend := c.Backend()
	backend.Say("backend:scheduler", "waiting-room.dr-smith", clinic.M{
		"action": "APPOINTMENT_SCHEDULED", "appointmentId": "apt-1", "patientId": "pat-1", "providerId": "dr-smith",
		"departmentId": "cardiology", "startsAt": time.Now().UTC().Format(time.RFC3339),
	})
	c.Observe().Await("booked", clinic.With("consultation.dr-smith.pat-1", clinic.M{"state": "scheduled"}))
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{"CONSULT_LOG", "CONSULT_EMERGENCY"} {
		if err := backend.DeleteStream(stream); err != nil {
			t.Fatal(err)
		}
	}
	second := c.RunUnready()
	c.Eventually("the refusal", func() (bool, string) {
		return strings.Contains(second.Log.String(), "consultd rebuild"), second.Log.Tail(5)
	})
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, second.OpsURL+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a replica that does not read says that it is ready: %s", resp.Status)
	}
}
