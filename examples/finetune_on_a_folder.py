"""
Fine-tunes the shipped detector on clips of your own.

    python examples/finetune_on_a_folder.py recordings.csv my-detector --epochs 5
    spooftrace detect clip.wav --model my-detector

The data are a table (CSV or JSON Lines) with the columns `audio`, `label` (bonafide or spoof) and `split` (train or
validation), or a folder with `train/bonafide`, `train/spoof`, `validation/bonafide` and `validation/spoof`. It needs
`pip install ".[train]"`. The best epoch by equal error rate on the validation clips is kept.
"""

import argparse

from spooftrace.checkpoint import load_checkpoint
from spooftrace.data_scripts import load_corpus
from spooftrace.trainers.detection_trainer import DetectionConfig, DetectionTrainer


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="table or folder")
parser.add_argument("output", help="new folder for the detector")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--learning-rate", type=float, default=1e-4)
args = parser.parse_args()

train, validation = (load_corpus("own", args.data, split=split) for split in ("train", "validation"))
shipped = load_checkpoint()
shipped.model.config.calibration = None  # it was fitted to the scores of the old weights
trainer = DetectionTrainer(
    shipped.model,
    DetectionConfig(
        args.output,
        num_samples=shipped.feature_extractor.window_samples,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        save_total_limit=1,
        report_to="none",
    ),
    train_dataset=train,
    eval_dataset=validation,
    processing_class=shipped.feature_extractor,
)
before = trainer.evaluate()["eval_eer"]
trainer.train()
trainer.save_model()
print(f"EER on {len(validation)} validation clips: {before:.1%} before, {trainer.evaluate()['eval_eer']:.1%} after")
