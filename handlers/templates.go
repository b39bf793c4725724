package handlers

import (
	"encoding/json"
	"fmt"
	"strings"

	"consultd/states"
)

// text is what a person reads. It is fixed per type of notification and never holds anything about a patient: it shows on
// locked screens and passes through Apple, Google and SMS gateways.
type text struct {
	title string
	body  string
}

// englishTexts has one text per type of notification.
func englishTexts() map[string]text {
	return map[string]text{
		states.NoticePatientReady:    {"Patient Checked In", "Patient is ready for consultation"},
		states.NoticeProviderReady:   {"Your Provider is Ready", "Your consultation is about to begin."},
		states.NoticePatientWaiting:  {"Patient Waiting", "A patient is waiting for you."},
		states.NoticeNotConnected:    {"Patient Not Connected", "The patient did not connect and is back in the waiting room."},
		states.NoticeRunningLate:     {"Your Provider is Running Late", "Your consultation will begin later than planned."},
		states.NoticeQueueDelay:      {"Longer Wait Than Usual", "Thank you for waiting. Your place is kept."},
		states.NoticeDeviceCheck:     {"Check Your Device", "Please test your camera and microphone before the consultation."},
		states.NoticeScheduleChange:  {"Schedule Change", "Your schedule has changed."},
		states.NoticeVisitCancelled:  {"Appointment Cancelled", "Your appointment will not take place."},
		states.NoticeNoShow:          {"Missed Appointment", "You did not check in for your appointment."},
		states.NoticeNotesDue:        {"Notes Due", "A consultation is waiting for your notes."},
		states.NoticeEscalation:      {"Escalation", "Your help is needed now. Open the app to answer."},
		states.NoticeEmergencyTaken:  {"Escalation Taken", "Somebody else has taken the escalation."},
		states.NoticeEmergencyClosed: {"Escalation Closed", "The escalation is closed. No more help is needed."},
	}
}

// titleOf is the title of a notification; that of an escalation says how severe it is.
func (t text) titleOf(kind string, severity states.Severity) string {
	if kind == states.NoticeEscalation && severity != "" {
		return "URGENT: " + strings.ToUpper(string(severity)) + " " + t.title
	}
	return t.title
}

// emergencySound is the sound of critical pushes.
const emergencySound = "emergency.aiff"

// pushBlocks are the ready-made keys of a notification that PubNub hands to Apple and Google: by type, once for ordinary
// and once for critical priority.
type pushBlocks map[string][2][]byte

const (
	pushOrdinary = 0
	pushCritical = 1
)

// pushText is the visible part of a push. PubNub documents the shapes around it; the Go SDK's own builder makes others.
type pushText struct {
	Title string `json:"title"`
	Body  string `json:"body"`
}

type apns struct {
	APS struct {
		Alert        pushText `json:"alert"`
		Sound        string   `json:"sound"`
		Interruption string   `json:"interruption-level,omitempty"`
	} `json:"aps"`
	Type   string     `json:"type"`
	PNPush []apnsPush `json:"pn_push,omitempty"`
}

type apnsPush struct {
	PushType string       `json:"push_type"`
	Version  string       `json:"version"`
	Targets  []apnsTarget `json:"targets"`
}

type apnsTarget struct {
	Environment string `json:"environment"`
	Topic       string `json:"topic"`
}

type fcm struct {
	Notification pushText          `json:"notification"`
	Data         map[string]string `json:"data"`
	Android      *fcmAndroid       `json:"android,omitempty"`
}

type fcmAndroid struct {
	Priority string `json:"priority"`
}

type gcm struct {
	Notification pushText `json:"notification"`
	Priority     string   `json:"priority,omitempty"`
}

// newPushBlocks prepares the push keys of every type. The error says which option is wrong.
func newPushBlocks(o Options, texts map[string]text) (pushBlocks, error) {
	environment := o.APNSEnvironment
	switch environment {
	case "":
		environment = "production"
	case "production", "development":
	default:
		return nil, fmt.Errorf("push: APNs environment must be production or development")
	}
	blocks := make(pushBlocks, len(texts))
	for kind, t := range texts {
		var pair [2][]byte
		for urgency := range pair {
			block, err := pushBlock(o, environment, kind, t, urgency == pushCritical)
			if err != nil {
				return nil, fmt.Errorf("push: %w", err)
			}
			pair[urgency] = block
		}
		blocks[kind] = pair
	}
	return blocks, nil
}

// pushBlock is the inside of a JSON object: pn_apns, pn_fcm and, where wanted, pn_gcm.
func pushBlock(o Options, environment, kind string, t text, critical bool) ([]byte, error) {
	shown := pushText{t.title, t.body}
	if kind == states.NoticeEscalation {
		shown.Title = "EMERGENCY"
	}
	apple := apns{Type: kind}
	apple.APS.Alert, apple.APS.Sound = shown, "default"
	google := fcm{Notification: shown, Data: map[string]string{"type": kind}}
	legacy := gcm{Notification: shown}
	if critical {
		apple.APS.Sound, apple.APS.Interruption = emergencySound, "time-sensitive"
		google.Android = &fcmAndroid{"high"}
		legacy.Priority = "high"
	}
	if o.APNSTopic != "" {
		apple.PNPush = []apnsPush{{"alert", "v2", []apnsTarget{{environment, o.APNSTopic}}}}
	}
	keys := struct {
		APNS apns `json:"pn_apns"`
		FCM  fcm  `json:"pn_fcm"`
		GCM  *gcm `json:"pn_gcm,omitempty"`
	}{APNS: apple, FCM: google}
	if o.LegacyGCM {
		keys.GCM = &legacy
	}
	block, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return block[1 : len(block)-1], nil
}
